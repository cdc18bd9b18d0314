//! The addresses that mails link to: what people look at is below WEB_URL, what the API itself answers below PUBLIC_URL.

use roost_shared::config::PublicUrlArgs;
use uuid::Uuid;

/// Where the links of mails lead.
#[derive(Debug, Clone)]
pub struct Links {
    api: String,
    web: String,
}

impl Links {
    /// `public_url` is the API's, `web_url` that of the marketplace's pages; each with or without a trailing slash.
    pub fn new(public_url: &str, web_url: &str) -> Self {
        let base = |url: &str| url.trim_end_matches('/').to_owned();
        Self {
            api: base(public_url),
            web: base(web_url),
        }
    }

    /// As the options say: without a WEB_URL, pages and API share an address.
    pub fn from_options(public_url: &PublicUrlArgs, web_url: Option<&str>) -> Self {
        let public_url = &public_url.public_url;
        Self::new(public_url, web_url.filter(|url| !url.is_empty()).unwrap_or(public_url))
    }

    /// The API's page with a button that proves the address. `token` as the API issues it: URL-safe by construction.
    pub fn verify_email(&self, token: &str) -> String {
        format!("{}/auth/verify-email?token={token}", self.api)
    }

    /// The API's page that ends mails, which mail programs also post to. `token` by
    /// `notifications::unsubscribe_token`: URL-safe by construction.
    pub fn unsubscribe(&self, token: &str) -> String {
        format!("{}/notifications/unsubscribe?token={token}", self.api)
    }

    /// A booking's page.
    pub fn booking(&self, booking_id: Uuid) -> String {
        format!("{}/bookings/{booking_id}/", self.web)
    }

    /// Where a guest looks for another stay.
    pub fn properties(&self) -> String {
        format!("{}/properties/", self.web)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOOKING: &str = "/bookings/00000000-0000-0000-0000-000000000000/";

    #[test]
    fn a_trailing_slash_makes_no_difference() {
        for slash in ["", "/"] {
            let links = Links::new(
                &format!("https://api.roost.example{slash}"),
                &format!("https://roost.example{slash}"),
            );
            assert_eq!(links.booking(Uuid::nil()), format!("https://roost.example{BOOKING}"));
            assert_eq!(
                links.verify_email("t"),
                "https://api.roost.example/auth/verify-email?token=t"
            );
        }
    }

    #[test]
    fn without_pages_of_their_own_all_links_lead_to_the_api() {
        let public_url = PublicUrlArgs {
            public_url: "https://api.roost.example".to_owned(),
        };
        for none in [None, Some("")] {
            let links = Links::from_options(&public_url, none);
            assert_eq!(
                links.booking(Uuid::nil()),
                format!("https://api.roost.example{BOOKING}")
            );
        }
    }
}
