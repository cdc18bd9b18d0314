//! A field of a merge patch: left out, `null`, or a value. The same in JSON bodies and in GraphQL inputs.

use std::borrow::Cow;

use async_graphql::registry::Registry as GraphqlRegistry;
use async_graphql::{InputType, InputValueError, InputValueResult, Value as GraphqlValue};
use poem_openapi::registry::{MetaSchemaRef, Registry};
use poem_openapi::types::{MaybeUndefined, ParseFromJSON, ParseResult, ToJSON, Type};
use serde_json::Value;

/// What to do with a field.
#[derive(Clone, Debug)]
pub struct Change<T>(pub MaybeUndefined<T>);

impl<T> Default for Change<T> {
    fn default() -> Self {
        Self(MaybeUndefined::Undefined)
    }
}

impl<T: Type> Type for Change<T> {
    const IS_REQUIRED: bool = MaybeUndefined::<T>::IS_REQUIRED;

    type RawValueType = T::RawValueType;
    type RawElementValueType = T::RawElementValueType;

    fn name() -> Cow<'static, str> {
        MaybeUndefined::<T>::name()
    }

    fn schema_ref() -> MetaSchemaRef {
        MaybeUndefined::<T>::schema_ref()
    }

    fn register(registry: &mut Registry) {
        MaybeUndefined::<T>::register(registry);
    }

    fn as_raw_value(&self) -> Option<&Self::RawValueType> {
        self.0.as_raw_value()
    }

    fn raw_element_iter<'a>(&'a self) -> Box<dyn Iterator<Item = &'a Self::RawElementValueType> + 'a> {
        self.0.raw_element_iter()
    }
}

impl<T: ParseFromJSON> ParseFromJSON for Change<T> {
    fn parse_from_json(value: Option<Value>) -> ParseResult<Self> {
        MaybeUndefined::parse_from_json(value)
            .map(Self)
            .map_err(poem_openapi::types::ParseError::propagate)
    }
}

impl<T: ToJSON> ToJSON for Change<T> {
    fn to_json(&self) -> Option<Value> {
        self.0.to_json()
    }
}

impl<T: InputType> InputType for Change<T> {
    type RawValueType = T::RawValueType;

    fn type_name() -> Cow<'static, str> {
        T::type_name()
    }

    fn qualified_type_name() -> String {
        T::type_name().into_owned()
    }

    fn create_type_info(registry: &mut GraphqlRegistry) -> String {
        T::create_type_info(registry);
        T::type_name().into_owned()
    }

    fn parse(value: Option<GraphqlValue>) -> InputValueResult<Self> {
        let change = match value {
            None => MaybeUndefined::Undefined,
            Some(GraphqlValue::Null) => MaybeUndefined::Null,
            Some(value) => MaybeUndefined::Value(T::parse(Some(value)).map_err(InputValueError::propagate)?),
        };
        Ok(Self(change))
    }

    fn to_value(&self) -> GraphqlValue {
        self.0.value().map_or(GraphqlValue::Null, InputType::to_value)
    }

    fn as_raw_value(&self) -> Option<&Self::RawValueType> {
        self.0.value().and_then(InputType::as_raw_value)
    }
}
