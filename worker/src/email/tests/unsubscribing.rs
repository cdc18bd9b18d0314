//! Every mail can be ended by its reader, but those that somebody needs for a booking or an account of theirs.

use std::collections::BTreeSet;

use super::super::{Mailer, mailbox};
use super::*;

/// The mails that are about a transaction, and what of it they tell. A mail that is not named here has to have a link.
const OF_TRANSACTIONS: [(&str, &str); 13] = [
    ("verify-email", "the link that proves the address of a new account"),
    (
        "booking-requested-host",
        "nights are held for a guest until the host answers",
    ),
    ("booking-confirmed-guest", "what was booked and paid"),
    ("booking-confirmed-host", "what was booked and is paid out"),
    ("payment-failed", "nights are held until another card is tried"),
    ("booking-cancelled-guest", "a booking has ended, and what is paid back"),
    (
        "booking-cancelled-host",
        "a booking has ended, and what is still paid out",
    ),
    ("booking-expired", "a booking has ended, and nothing is charged"),
    ("booking-declined", "a booking has ended, and nothing is charged"),
    ("booking-no-show", "a booking has ended, and nothing is paid back"),
    (
        "payment-lost-guest",
        "a booking has ended because its card was not charged",
    ),
    (
        "payment-lost-host",
        "a booking has ended because its card was not charged",
    ),
    ("refund-failed", "money that did not go back"),
];

/// The lines before a message's parts.
fn head_of(mail: &Mail) -> String {
    let mailer = Mailer::from_url("smtp://localhost", "Roost <stay@roost.example>").unwrap();
    let to = mailbox("Grace", "grace@example.com").unwrap();
    let at = instant("2030-05-01T08:15:00Z");
    let (_, message) = mailer
        .compose(to, &rendered(mail, "en"), "<1@roost.example>", at)
        .unwrap();
    let message = String::from_utf8(message).unwrap();
    message.split_once("\r\n\r\n").unwrap().0.to_owned()
}

#[tokio::test]
async fn every_mail_that_is_not_about_a_transaction_can_be_ended() {
    let url = unsubscribe_url();
    let escaped = url.replace('/', "&#x2f;");
    for mail in every_mail() {
        let name = mail.name();
        let told = OF_TRANSACTIONS.iter().find(|(named, _)| *named == name);
        let can_be_ended = told.is_none();
        let parts = rendered(&mail, "en");
        let head = head_of(&mail);
        for (where_to_look, text, link) in [
            ("text", &parts.text, url.clone()),
            ("html", &parts.html, format!("<a href=\"{escaped}\"")),
            ("head", &head, format!("\r\nList-Unsubscribe: <{url}>\r\n")),
            (
                "head",
                &head,
                "\r\nList-Unsubscribe-Post: List-Unsubscribe=One-Click\r\n".to_owned(),
            ),
        ] {
            assert_eq!(
                text.contains(&link),
                can_be_ended,
                "{name} ({told:?}), {where_to_look}: {text}"
            );
        }
        if told.is_some() {
            let anything = format!("{head}{}{}", parts.text, parts.html).to_lowercase();
            assert!(!anything.contains("unsubscribe"), "{name}: {anything}");
        }
    }
}

#[test]
fn the_mails_about_transactions_are_those_that_are_sent() {
    let mails = every_mail();
    let mails: BTreeSet<&str> = mails.iter().map(Mail::name).collect();
    let named: BTreeSet<&str> = OF_TRANSACTIONS.iter().map(|(name, _)| *name).collect();
    assert_eq!(named.len(), OF_TRANSACTIONS.len(), "each once");
    assert!(named.is_subset(&mails), "{:?}", named.difference(&mails));
}
