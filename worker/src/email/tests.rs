//! What the mails say, to whom, and what they never let through.

mod unsubscribing;
mod untrusted;

use std::collections::BTreeSet;
use std::path::Path;

use chrono::{DateTime, NaiveDate, NaiveTime, Utc};
use chrono_tz::Tz;
use roost_shared::money::Currency;
use roost_shared::reviews::Side;
use uuid::Uuid;

use super::{
    BookingCancelledGuest, BookingCancelledHost, BookingConfirmedGuest, BookingConfirmedHost, BookingDeclined,
    BookingExpired, BookingNoShow, BookingRequestedHost, CancelledBy, Expiry, Links, Mail, PaymentFailed,
    PaymentLostGuest, PaymentLostHost, PriceLine, QuotedMessage, RefundFailed, Rendered, ReviewInvitation,
    ReviewModerated, ReviewReminder, Stay, UnreadMessages, VerifyEmail, render,
};

const TITLE: &str = "Loft by the canal";

fn date(text: &str) -> NaiveDate {
    text.parse().unwrap()
}

fn time(text: &str) -> NaiveTime {
    text.parse().unwrap()
}

fn instant(text: &str) -> DateTime<Utc> {
    text.parse().unwrap()
}

fn stay() -> Stay {
    Stay {
        booking_id: Uuid::from_u128(7),
        property_title: TITLE.into(),
        city: "Berlin".into(),
        check_in: date("2030-06-01"),
        check_out: date("2030-06-04"),
        check_in_from: time("15:00:00"),
        check_out_by: time("11:00:00"),
        time_zone: Tz::Europe__Berlin,
        guests: 2,
    }
}

fn links() -> Links {
    Links::new("https://api.roost.example", "https://roost.example")
}

fn booking_url() -> String {
    links().booking(Uuid::from_u128(7))
}

fn unsubscribe_url() -> String {
    links().unsubscribe("v1.abc.def")
}

fn search_url() -> String {
    links().properties()
}

fn confirmed() -> BookingConfirmedGuest {
    BookingConfirmedGuest {
        guest_name: "Grace".into(),
        host_name: "Heinz".into(),
        stay: stay(),
        lines: vec![
            PriceLine {
                label: "3 nights".into(),
                amount_minor: 360_000,
            },
            PriceLine {
                label: "Cleaning fee".into(),
                amount_minor: 4_550,
            },
        ],
        total_minor: 364_550,
        currency: Currency::EUR,
        house_rules: Some("No parties".into()),
        booking_url: booking_url(),
    }
}

fn cancelled(paid_minor: i64, refund_minor: i64) -> BookingCancelledGuest {
    BookingCancelledGuest {
        guest_name: "Grace".into(),
        host_name: "Heinz".into(),
        stay: stay(),
        cancelled_by: CancelledBy::Guest,
        message: None,
        paid_minor,
        refund_minor,
        currency: Currency::USD,
        rule: "Moderate: everything until 5 days before check-in.".into(),
        booking_url: booking_url(),
    }
}

fn cancelled_by_host(message: &str) -> BookingCancelledGuest {
    BookingCancelledGuest {
        cancelled_by: CancelledBy::Host,
        message: Some(message.into()),
        ..cancelled(364_550, 364_550)
    }
}

fn told_to_host(message: Option<&str>) -> BookingCancelledHost {
    BookingCancelledHost {
        host_name: "Heinz".into(),
        guest_name: "Grace".into(),
        stay: stay(),
        cancelled_by: CancelledBy::Guest,
        message: message.map(str::to_owned),
        paid_minor: 364_550,
        refund_minor: 120_000,
        payout_minor: 237_213,
        currency: Currency::EUR,
        rule: "Moderate: everything until 5 days before check-in.".into(),
        booking_url: booking_url(),
    }
}

fn declined(message: Option<&str>) -> BookingDeclined {
    BookingDeclined {
        guest_name: "Grace".into(),
        host_name: "Heinz".into(),
        stay: stay(),
        message: message.map(str::to_owned),
        search_url: search_url(),
    }
}

fn missed(message: Option<&str>) -> BookingNoShow {
    BookingNoShow {
        guest_name: "Grace".into(),
        host_name: "Heinz".into(),
        stay: stay(),
        message: message.map(str::to_owned),
        total_minor: 364_550,
        currency: Currency::EUR,
        booking_url: booking_url(),
    }
}

fn moderated(reason: &str, writes: Side) -> ReviewModerated {
    ReviewModerated {
        name: "Grace".into(),
        other_name: "Heinz".into(),
        writes,
        stay: stay(),
        text: "The code of the door is 1234.".into(),
        reason: reason.into(),
        booking_url: booking_url(),
        unsubscribe_url: unsubscribe_url(),
    }
}

fn failed() -> PaymentFailed {
    PaymentFailed {
        guest_name: "Grace".into(),
        stay: stay(),
        total_minor: 364_550,
        currency: Currency::EUR,
        reason: Some("Your card has insufficient funds.".into()),
        hold_expires_at: instant("2030-05-01T08:15:00Z"),
        booking_url: booking_url(),
    }
}

fn unread(text: &str) -> UnreadMessages {
    let quoted = |text: &str| QuotedMessage {
        sender_name: "Heinz".into(),
        property_title: TITLE.into(),
        text: text.into(),
    };
    UnreadMessages {
        name: "Grace".into(),
        count: 5,
        messages: vec![quoted(text), quoted("See you on Saturday!")],
        booking_url: booking_url(),
        unsubscribe_url: unsubscribe_url(),
    }
}

/// One of each, as Grace the guest or Heinz the host would get it.
fn every_mail() -> Vec<Mail> {
    let (guest_name, host_name) = (|| "Grace".to_owned(), || "Heinz".to_owned());
    vec![
        Mail::VerifyEmail(VerifyEmail {
            name: guest_name(),
            verify_url: links().verify_email("abc123"),
            expires_at: instant("2030-05-02T08:00:00Z"),
        }),
        Mail::BookingRequestedHost(BookingRequestedHost {
            host_name: host_name(),
            guest_name: guest_name(),
            stay: stay(),
            payout_minor: 353_613,
            currency: Currency::EUR,
            message: Some("We are a quiet couple.".into()),
            approve_by: instant("2030-05-02T08:00:00Z"),
            booking_url: booking_url(),
        }),
        Mail::BookingConfirmedGuest(confirmed()),
        Mail::BookingConfirmedHost(BookingConfirmedHost {
            host_name: host_name(),
            guest_name: guest_name(),
            stay: stay(),
            total_minor: 364_550,
            host_fee_minor: 10_937,
            payout_minor: 353_613,
            currency: Currency::EUR,
            arrival_time: Some(time("18:30:00")),
            message: Some("We are a quiet couple.".into()),
            booking_url: booking_url(),
        }),
        Mail::PaymentFailed(failed()),
        Mail::BookingCancelledGuest(cancelled_by_host("The roof leaks.")),
        Mail::BookingCancelledHost(told_to_host(Some("The train was cancelled."))),
        Mail::BookingExpired(BookingExpired {
            guest_name: guest_name(),
            host_name: host_name(),
            stay: stay(),
            because: Expiry::Unanswered,
            search_url: search_url(),
        }),
        Mail::BookingDeclined(declined(Some("The heating is being repaired."))),
        Mail::BookingNoShow(missed(Some("I waited until midnight."))),
        Mail::ReviewInvitation(ReviewInvitation {
            name: guest_name(),
            other_name: host_name(),
            writes: Side::Guest,
            stay: stay(),
            closes_at: instant("2030-06-18T08:40:00Z"),
            booking_url: booking_url(),
            unsubscribe_url: unsubscribe_url(),
        }),
        Mail::ReviewReminder(ReviewReminder {
            name: host_name(),
            other_name: guest_name(),
            writes: Side::Host,
            stay: stay(),
            closes_at: instant("2030-06-18T08:40:00Z"),
            booking_url: booking_url(),
            unsubscribe_url: unsubscribe_url(),
        }),
        Mail::ReviewHidden(moderated("It tells the code of the door.", Side::Guest)),
        Mail::ReviewShown(moderated("The code was changed.", Side::Host)),
        Mail::UnreadMessages(unread("We are a quiet couple.")),
        Mail::PaymentLostGuest(PaymentLostGuest {
            guest_name: guest_name(),
            stay: stay(),
            total_minor: 364_550,
            currency: Currency::EUR,
            search_url: search_url(),
        }),
        Mail::PaymentLostHost(PaymentLostHost {
            host_name: host_name(),
            guest_name: guest_name(),
            stay: stay(),
            booking_url: booking_url(),
        }),
        Mail::RefundFailed(RefundFailed {
            guest_name: guest_name(),
            stay: stay(),
            refund_minor: 120_000,
            currency: Currency::EUR,
            booking_url: booking_url(),
        }),
    ]
}

fn rendered(mail: &Mail, locale: &str) -> Rendered {
    render(mail, locale.into()).unwrap()
}

/// The HTML part as somebody reads it: no style, no tags, entities resolved, white space folded.
fn seen(html: &str) -> String {
    let body = html.split_once("</head>").expect("a head").1;
    let mut text = String::new();
    let mut inside = false;
    for c in body.chars() {
        match c {
            '<' => inside = true,
            '>' => {
                inside = false;
                text.push(' ');
            }
            _ if !inside => text.push(c),
            _ => {}
        }
    }
    let text = text
        .replace("&#x2f;", "/")
        .replace("&#x27;", "'")
        .replace("&quot;", "\"");
    let text = text.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&");
    folded(&text)
}

fn folded(text: &str) -> String {
    text.split([' ', '\n'])
        .filter(|word| !word.is_empty())
        .collect::<Vec<_>>()
        .join(" ")
}

#[test]
fn every_folder_of_templates_belongs_to_a_mail() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("templates");
    let folders: BTreeSet<String> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap())
        .filter(|entry| entry.path().is_dir())
        .map(|entry| entry.file_name().into_string().unwrap())
        .collect();
    let mails: BTreeSet<String> = every_mail().iter().map(|mail| mail.name().to_owned()).collect();
    assert_eq!(folders, mails);
}

#[test]
fn every_mail_greets_its_reader_and_has_one_button() {
    for mail in every_mail() {
        let name = mail.name();
        let (reader, url) = mail.reader_and_action();
        let mail_out = render(&mail, "en".into()).unwrap();
        assert!(
            !mail_out.subject.is_empty() && !mail_out.subject.contains('\n'),
            "{name}"
        );
        assert!(
            mail_out.text.starts_with(&format!("Hi {reader},\n")),
            "{name}: {}",
            mail_out.text
        );
        assert!(mail_out.text.contains(url), "{name}");
        let unsubscribe = mail.unsubscribe_url();
        let links = 1 + usize::from(unsubscribe.is_some());
        assert_eq!(mail_out.html.matches("<a ").count(), links, "{name}");
        assert_eq!(mail_out.unsubscribe_url.as_deref(), unsubscribe, "{name}");
        let told = "No more mails of this kind";
        assert_eq!(mail_out.html.contains(told), unsubscribe.is_some(), "{name}");
        assert_eq!(mail_out.text.contains(told), unsubscribe.is_some(), "{name}");
        assert!(unsubscribe.is_none_or(|url| mail_out.text.contains(url)), "{name}");
        let href = format!("<a href=\"{}\"", url.replace('/', "&#x2f;"));
        assert!(mail_out.html.contains(&href), "{name}");
        let read = seen(&mail_out.html);
        assert!(
            read.contains(&format!("Hi {reader},")) && read.contains(url),
            "{name}: {read}"
        );
        assert!(
            !mail_out.text.contains("{{") && !mail_out.text.contains("\n\n\n"),
            "{name}: {}",
            mail_out.text
        );
    }
}

#[test]
fn no_line_of_a_text_runs_into_the_next() {
    for mail in every_mail() {
        let text = rendered(&mail, "en").text;
        let glued = text
            .char_indices()
            .any(|(at, c)| c == '.' && text[at + 1..].starts_with(|next: char| next.is_uppercase()));
        assert!(!glued, "{}: {text}", mail.name());
    }
}

#[test]
fn both_parts_tell_the_same_stay() {
    let expected = [
        TITLE,
        "Berlin",
        "Saturday, June 1, 2030",
        "3:00 PM",
        "Tuesday, June 4, 2030",
        "11:00 AM",
        "3 nights, 2 guests",
        "00000000-0000-0000-0000-000000000007",
    ];
    for mail in every_mail().into_iter().filter(|mail| mail.stay().is_some()) {
        let name = mail.name();
        let mail = rendered(&mail, "en");
        for fact in expected {
            assert!(mail.text.contains(fact), "{name}, text: {fact}");
            assert!(seen(&mail.html).contains(fact), "{name}, html: {fact}");
        }
    }
}

#[test]
fn both_parts_tell_the_same_amounts_and_words() {
    for mail in every_mail() {
        let name = mail.name();
        let mail = rendered(&mail, "en");
        let html = seen(&mail.html);
        for word in folded(&mail.text)
            .split(' ')
            .map(|word| word.trim_end_matches(['.', ',', ':', ';']))
        {
            let is_amount = word.contains('€') || word.contains('$');
            assert!(!is_amount || html.contains(word), "{name}: {word} is in the text only");
        }
        for said in [
            "We are a quiet couple.",
            "The heating is being repaired.",
            "The train was cancelled.",
            "The roof leaks.",
            "Moderate: everything",
            "insufficient funds",
        ] {
            assert_eq!(mail.text.contains(said), html.contains(said), "{name}: {said}");
        }
    }
}

#[test]
fn amounts_and_dates_are_the_readers() {
    let german = rendered(&Mail::BookingConfirmedGuest(confirmed()), "de");
    assert!(german.text.contains("Paid: 3.645,50\u{a0}€"), "{}", german.text);
    assert!(seen(&german.html).contains("3.645,50\u{a0}€"));
    assert!(german.text.contains("Samstag, 1. Juni 2030, from 15:00 local time"));
    assert_eq!(german.subject, format!("Booked: {TITLE}, Samstag, 1. Juni 2030"));

    let mut in_yen = confirmed();
    in_yen.currency = Currency::JPY;
    assert!(
        rendered(&Mail::BookingConfirmedGuest(in_yen.clone()), "en")
            .text
            .contains("Paid: ¥364,550")
    );
    in_yen.currency = Currency::KWD;
    let text = rendered(&Mail::BookingConfirmedGuest(in_yen), "en-GB").text;
    assert!(text.contains("Paid: KWD\u{a0}364.550"), "{text}");
}

#[test]
fn the_price_is_told_line_by_line() {
    let text = rendered(&Mail::BookingConfirmedGuest(confirmed()), "en-GB").text;
    assert!(
        text.contains("3 nights: €3,600.00\nCleaning fee: €45.50\nPaid: €3,645.50\n"),
        "{text}"
    );
}

#[test]
fn instants_are_on_the_propertys_clock() {
    let mail = rendered(&Mail::PaymentFailed(failed()), "en-GB");
    // 08:15 UTC, in summer.
    let until = "held until Wednesday 1 May 2030, 10:15 (CEST)";
    assert!(mail.text.contains(until), "{}", mail.text);
    assert!(seen(&mail.html).contains(until));
    assert!(mail.text.contains("another card"));
    assert!(mail.text.contains("Your card has insufficient funds."));
}

#[test]
fn a_refund_is_told_as_what_it_is() {
    let told = |paid, refund| {
        let mail = rendered(&Mail::BookingCancelledGuest(cancelled(paid, refund)), "en");
        assert!(mail.text.contains("How the refund was decided: Moderate"));
        let said = folded(&mail.text);
        let html = seen(&mail.html);
        (said, html)
    };
    let (text, html) = told(36_000, 36_000);
    assert!(
        text.contains("You get back all you paid: $360.00. It goes back to the card"),
        "{text}"
    );
    assert!(html.contains("all you paid: $360.00"), "{html}");
    let (text, _) = told(36_000, 18_000);
    assert!(text.contains("Of the $360.00 you paid, $180.00 is refunded."), "{text}");
    let (text, html) = told(36_000, 0);
    assert!(text.contains("You paid $360.00; by the terms of this booking nothing is refunded."));
    assert!(
        !text.contains("goes back to the card") && !html.contains("goes back to"),
        "{html}"
    );
    let (text, _) = told(0, 0);
    assert!(text.contains("You have not been charged"), "{text}");
}

#[test]
fn the_one_who_cancelled_is_named() {
    let mut mail = cancelled(36_000, 36_000);
    mail.cancelled_by = CancelledBy::Host;
    let text = rendered(&Mail::BookingCancelledGuest(mail), "en").text;
    assert!(text.contains("Heinz had to cancel your stay"), "{text}");
    let text = rendered(&Mail::BookingCancelledGuest(cancelled(36_000, 36_000)), "en").text;
    assert!(text.contains("You cancelled your stay"), "{text}");
}

#[test]
fn price_lines_are_read_from_a_booking() {
    let stored = r#"[{"kind":"nights","label":"3 nights","quantity":3,"unit_minor":100,"amount_minor":300}]"#;
    let lines: Vec<PriceLine> = serde_json::from_str(stored).unwrap();
    assert_eq!((lines[0].label.as_str(), lines[0].amount_minor), ("3 nights", 300));
}
