//! The addresses that mails link to, all below PUBLIC_URL.

use uuid::Uuid;

#[derive(Debug, Clone)]
pub struct Links {
    base: String,
}

impl Links {
    /// `public_url` with or without a trailing slash.
    pub fn new(public_url: &str) -> Self {
        Self {
            base: public_url.trim_end_matches('/').to_owned(),
        }
    }

    /// `token` as the API issues it: URL-safe by construction.
    pub fn verify_email(&self, token: &str) -> String {
        format!("{}/auth/verify-email?token={token}", self.base)
    }

    pub fn booking(&self, booking_id: Uuid) -> String {
        format!("{}/bookings/{booking_id}/", self.base)
    }

    /// `token` by `notifications::unsubscribe_token`: URL-safe by construction.
    pub fn unsubscribe(&self, token: &str) -> String {
        format!("{}/notifications/unsubscribe?token={token}", self.base)
    }

    /// Where a guest looks for another stay.
    pub fn properties(&self) -> String {
        format!("{}/properties/", self.base)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trailing_slash_makes_no_difference() {
        let id = Uuid::nil();
        let expected = "https://roost.example/bookings/00000000-0000-0000-0000-000000000000/";
        assert_eq!(Links::new("https://roost.example").booking(id), expected);
        assert_eq!(Links::new("https://roost.example/").booking(id), expected);
    }
}
