//! A query parameter that may have several values: repeated, separated by commas, or both.

use std::borrow::Cow;

use poem_openapi::registry::{MetaSchemaRef, Registry};
use poem_openapi::types::{ParseError, ParseFromParameter, ParseResult, Type};

/// The values, in the order given; none if the parameter is absent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Several<T>(Vec<T>);

impl<T> IntoIterator for Several<T> {
    type Item = T;
    type IntoIter = std::vec::IntoIter<T>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

impl<T: Type> Type for Several<T> {
    const IS_REQUIRED: bool = false;

    type RawValueType = Self;
    type RawElementValueType = T::RawValueType;

    fn name() -> Cow<'static, str> {
        format!("several_{}", T::name()).into()
    }

    fn schema_ref() -> MetaSchemaRef {
        Vec::<T>::schema_ref()
    }

    fn register(registry: &mut Registry) {
        T::register(registry);
    }

    fn as_raw_value(&self) -> Option<&Self::RawValueType> {
        Some(self)
    }

    fn raw_element_iter<'a>(&'a self) -> Box<dyn Iterator<Item = &'a Self::RawElementValueType> + 'a> {
        Box::new(self.0.iter().filter_map(Type::as_raw_value))
    }
}

impl<T: ParseFromParameter> ParseFromParameter for Several<T> {
    fn parse_from_parameter(value: &str) -> ParseResult<Self> {
        Self::parse_from_parameters(std::iter::once(value))
    }

    fn parse_from_parameters<I: IntoIterator<Item = A>, A: AsRef<str>>(iter: I) -> ParseResult<Self> {
        let mut values = Vec::new();
        for given in iter {
            for value in given
                .as_ref()
                .split(',')
                .map(str::trim)
                .filter(|value| !value.is_empty())
            {
                values.push(T::parse_from_parameter(value).map_err(ParseError::propagate)?);
            }
        }
        Ok(Self(values))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repeated_and_separated_values_are_the_same() {
        let parse = |given: &[&str]| Several::<u16>::parse_from_parameters(given).map(|several| several.0);
        assert_eq!(parse(&["1", "2"]).expect("values"), [1, 2]);
        assert_eq!(parse(&["1, 2", "3"]).expect("values"), [1, 2, 3]);
        assert!(parse(&[]).expect("values").is_empty());
        assert!(parse(&["1,x"]).is_err());
    }
}
