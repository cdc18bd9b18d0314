//! What a query string or a form says: names and values in their order, a name as often as it comes.

use poem::{FromRequest, Request, RequestBody};

use super::fault::Fault;

/// The parameters of a URL.
#[derive(Clone, Debug, Default)]
pub struct Params(Vec<(String, String)>);

impl Params {
    /// Reads `a=1&b=2`.
    #[must_use]
    pub fn parse(text: &[u8]) -> Self {
        Self(form_urlencoded::parse(text).into_owned().collect())
    }

    /// The first value of a name that is not empty.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        self.all(name).map(str::trim).find(|value| !value.is_empty())
    }

    /// All values of a name.
    pub fn all<'a, 'n>(&'a self, name: &'n str) -> impl Iterator<Item = &'a str> + use<'a, 'n> {
        self.0
            .iter()
            .filter(move |(known, _)| known == name)
            .map(|(_, value)| value.as_str())
    }

    /// A value that must be of a type, if it is there.
    ///
    /// # Errors
    /// It is not.
    pub fn parsed<T: std::str::FromStr>(&self, name: &str) -> Result<Option<T>, Fault> {
        self.get(name)
            .map(|value| {
                value
                    .parse()
                    .map_err(|_| Fault::Bad(format!("{name}: {value:?} cannot be read")))
            })
            .transpose()
    }
}

impl<'a> FromRequest<'a> for Params {
    async fn from_request(request: &'a Request, _: &mut RequestBody) -> poem::Result<Self> {
        Ok(Self::parse(request.uri().query().unwrap_or_default().as_bytes()))
    }
}

/// A submitted form.
#[derive(Clone, Debug, Default)]
pub struct Form(pub Params);

impl<'a> FromRequest<'a> for Form {
    async fn from_request(_: &'a Request, body: &mut RequestBody) -> poem::Result<Self> {
        // The guard has bounded it.
        let bytes = body.take()?.into_bytes().await?;
        Ok(Self(Params::parse(&bytes)))
    }
}
