//! Mail on its way: the worker's mailer and a real SMTP server that has good and bad days.

use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use roost_tests::mailbox::{Fault, Mailbox, MailboxConfig, Message, Misbehaviour, Stage};
use roost_tests::world::{WEB_URL, World, id_of};
use roost_worker::email::{BookingExpired, Expiry, Links, Mail, MailError, Mailer, Rendered, Stay, mailbox, render};
use serde_json::json;
use uuid::Uuid;

pub(crate) const SENDER: &str = "Roost <stay@roost.example>";
pub(crate) const PATIENCE: Duration = Duration::from_secs(5);

fn at() -> DateTime<Utc> {
    "2030-05-01T08:15:00Z".parse().unwrap()
}

fn letter() -> Rendered {
    let stay = Stay {
        booking_id: Uuid::from_u128(7),
        property_title: "Häuschen & <Garten>".into(),
        city: "Köln".into(),
        check_in: "2030-06-01".parse().unwrap(),
        check_out: "2030-06-04".parse().unwrap(),
        check_in_from: "15:00:00".parse().unwrap(),
        check_out_by: "11:00:00".parse().unwrap(),
        time_zone: chrono_tz::Tz::Europe__Berlin,
        guests: 2,
    };
    let mail = Mail::BookingExpired(BookingExpired {
        guest_name: "Grace".into(),
        host_name: "Heinz".into(),
        stay,
        because: Expiry::Unanswered,
        search_url: Links::new("https://api.roost.example", "https://roost.example").properties(),
    });
    render(&mail, "de".into()).unwrap()
}

async fn open() -> (Mailbox, Mailer) {
    let mailbox = Mailbox::start(MailboxConfig::default()).await.unwrap();
    let mailer = Mailer::from_url(&mailbox.smtp_url(), SENDER).unwrap();
    (mailbox, mailer)
}

/// A mailer that gives up soon.
fn impatient(inbox: &Mailbox) -> Mailer {
    Mailer::with_timeout(&inbox.smtp_url(), SENDER, Duration::from_millis(200)).unwrap()
}

pub(crate) async fn send(mailer: &Mailer) -> Result<(), MailError> {
    let to = mailbox("Grace Hopper", "grace@example.com").unwrap();
    mailer
        .send(to, &letter(), &mailer.message_id("mail:booking-expired:7"), at())
        .await
}

fn fault(at: Stage, what: Misbehaviour) -> Fault {
    Fault { at, what, times: 1 }
}

#[tokio::test]
async fn a_mail_arrives_whole() {
    let (inbox, mailer) = open().await;
    send(&mailer).await.unwrap();

    let mail = inbox
        .wait_for(|mail| mail.is_to("grace@example.com"), PATIENCE)
        .await
        .unwrap();
    assert_eq!(mail.from, "Roost <stay@roost.example>");
    assert_eq!(mail.subject, "Expired: your booking of Häuschen & <Garten>");
    assert_eq!(mail.header("Date"), Some("Wed, 01 May 2030 08:15:00 +0000"));
    assert_eq!(mail.header("Auto-Submitted"), Some("auto-generated"));
    assert!(
        mail.header("Content-Type")
            .unwrap()
            .starts_with("multipart/alternative")
    );
    assert_eq!(
        mail.message_id.as_deref(),
        Some(mailer.message_id("mail:booking-expired:7").trim_matches(['<', '>']))
    );
    assert_eq!(mail.links, ["https://roost.example/properties/"]);

    let sent = letter();
    let lines = |text: &str| text.lines().map(str::to_owned).collect::<Vec<_>>();
    assert_eq!(
        lines(mail.text.as_deref().unwrap().trim_end()),
        lines(sent.text.trim_end())
    );
    assert_eq!(
        lines(mail.html.as_deref().unwrap().trim_end()),
        lines(sent.html.trim_end())
    );
}

#[tokio::test]
async fn lines_of_dots_survive() {
    let (inbox, mailer) = open().await;
    let text = ".\n..\n.a\nend\n.\n".to_owned();
    let dotted = Rendered {
        subject: "dots".into(),
        text: text.clone(),
        html: "<p>.\n.\n</p>".into(),
        unsubscribe_url: None,
    };
    let to = mailbox("", "grace@example.com").unwrap();
    mailer.send(to, &dotted, "<1@roost.example>", at()).await.unwrap();
    let mail = inbox.wait_for(|mail| mail.subject == "dots", PATIENCE).await.unwrap();
    assert_eq!(
        mail.text.as_deref().unwrap().replace("\r\n", "\n").trim_end(),
        text.trim_end()
    );
}

#[tokio::test]
async fn mails_share_a_connection() {
    let (inbox, mailer) = open().await;
    for _ in 0..5 {
        send(&mailer).await.unwrap();
    }
    assert_eq!((inbox.messages().len(), inbox.connections_seen()), (5, 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_at_once_do_not_mix() {
    let (inbox, mailer) = open().await;
    let sends = (0..100).map(|number| {
        let mailer = mailer.clone();
        async move {
            let to = mailbox("", &format!("guest{number}@example.com")).unwrap();
            let text = format!("for {number}");
            let rendered = Rendered {
                subject: text.clone(),
                html: text.clone(),
                text,
                unsubscribe_url: None,
            };
            let id = mailer.message_id(&format!("mail:test:{number}"));
            mailer.send(to, &rendered, &id, at()).await
        }
    });
    for sent in futures::future::join_all(sends).await {
        sent.unwrap();
    }
    let mails = inbox.messages();
    assert_eq!(mails.len(), 100);
    for number in 0..100 {
        let mail = mails
            .iter()
            .find(|mail| mail.is_to(&format!("guest{number}@example.com")))
            .unwrap();
        assert_eq!((mail.subject.clone(), mail.to.len()), (format!("for {number}"), 1));
        assert_eq!(mail.text.as_deref().map(str::trim), Some(mail.subject.as_str()));
    }
}

#[tokio::test]
async fn a_server_that_was_restarted_is_found_again() {
    let (inbox, mailer) = open().await;
    send(&mailer).await.unwrap();
    let smtp_listen = inbox.smtp_url().trim_start_matches("smtp://").parse().unwrap();
    inbox.stop().await;
    let refused = send(&mailer).await.unwrap_err();
    assert!(matches!(refused, MailError::Transient(_)), "{refused}");

    let inbox = Mailbox::start(MailboxConfig {
        smtp_listen,
        ..MailboxConfig::default()
    })
    .await
    .unwrap();
    send(&mailer).await.unwrap();
    assert_eq!(inbox.messages().len(), 1);
}

#[tokio::test]
async fn not_now_is_worth_another_try() {
    let (inbox, mailer) = open().await;
    for (stage, code) in [
        (Stage::Connect, 421),
        (Stage::Rcpt, 450),
        (Stage::Data, 451),
        (Stage::Message, 452),
    ] {
        inbox.inject(fault(stage, Misbehaviour::Reply(code)));
        // The fault at the connection wants a new one.
        let fresh = Mailer::from_url(&inbox.smtp_url(), SENDER).unwrap();
        let refused = send(&fresh).await.unwrap_err();
        assert!(matches!(refused, MailError::Transient(_)), "{stage:?}: {refused}");
        assert!(inbox.messages().is_empty(), "{stage:?}");
    }
    send(&mailer).await.unwrap();
    assert_eq!((inbox.messages().len(), inbox.faults_seen()), (1, 4));
}

#[tokio::test]
async fn no_is_no() {
    let (inbox, mailer) = open().await;
    for stage in [Stage::Rcpt, Stage::Data, Stage::Message] {
        inbox.inject(fault(stage, Misbehaviour::Reply(550)));
        let refused = send(&mailer).await.unwrap_err();
        assert!(matches!(refused, MailError::Permanent(_)), "{stage:?}: {refused}");
        assert!(refused.to_string().contains("550"), "{refused}");
    }
    assert!(inbox.messages().is_empty());
    send(&mailer).await.unwrap();
    assert_eq!(inbox.messages().len(), 1);
}

#[tokio::test]
async fn a_silent_server_costs_no_more_than_the_patience() {
    let inbox = Mailbox::start(MailboxConfig::default()).await.unwrap();
    for stage in [Stage::Connect, Stage::Rcpt, Stage::Data, Stage::Message] {
        inbox.inject(fault(stage, Misbehaviour::Hang));
        let mailer = impatient(&inbox);
        let started = Instant::now();
        let refused = send(&mailer).await.unwrap_err();
        assert!(matches!(refused, MailError::Transient(_)), "{stage:?}: {refused}");
        assert!(started.elapsed() < PATIENCE, "{stage:?}");
        assert!(inbox.messages().is_empty(), "{stage:?}");
        // The next mail starts afresh and reads its own replies.
        send(&mailer).await.unwrap();
        inbox.clear();
    }
}

#[tokio::test]
async fn a_mail_given_up_half_way_leaves_no_trace_in_the_next() {
    let (inbox, mailer) = open().await;
    send(&mailer).await.unwrap();
    inbox.clear();
    inbox.inject(fault(Stage::Rcpt, Misbehaviour::Hang));
    let cancelled = tokio::time::timeout(Duration::from_millis(100), send(&mailer)).await;
    assert!(cancelled.is_err());
    inbox.inject(fault(Stage::Rcpt, Misbehaviour::Reply(550)));
    assert!(matches!(send(&mailer).await, Err(MailError::Permanent(_))));
    send(&mailer).await.unwrap();
    assert_eq!(inbox.messages().len(), 1);
}

#[tokio::test]
async fn a_late_reply_is_not_taken_for_the_next_mails() {
    let inbox = Mailbox::start(MailboxConfig::default()).await.unwrap();
    let mailer = impatient(&inbox);
    inbox.inject(fault(Stage::Message, Misbehaviour::Delay(400)));
    assert!(matches!(send(&mailer).await, Err(MailError::Transient(_))));
    inbox.wait_for(|mail| mail.id == 1, PATIENCE).await.unwrap();
    // On the old connection the mail would now seem delivered: it would read replies meant for others.
    inbox.inject(fault(Stage::Message, Misbehaviour::Reply(452)));
    assert!(matches!(send(&mailer).await, Err(MailError::Transient(_))));
    assert_eq!(inbox.messages().len(), 1);
}

#[tokio::test]
async fn a_lost_reply_repeats_the_mail_under_the_same_id() {
    let (inbox, mailer) = open().await;
    inbox.inject(fault(Stage::Message, Misbehaviour::Close));
    let lost = send(&mailer).await.unwrap_err();
    assert!(matches!(lost, MailError::Transient(_)), "{lost}");
    send(&mailer).await.unwrap();
    let mails = inbox.messages();
    assert_eq!(mails.len(), 2);
    assert!(mails[0].message_id.is_some());
    assert_eq!(mails[0].message_id, mails[1].message_id);
}

#[tokio::test]
async fn nobody_there_is_transient() {
    let (inbox, mailer) = open().await;
    inbox.stop().await;
    let refused = send(&mailer).await.unwrap_err();
    assert!(matches!(refused, MailError::Transient(_)), "{refused}");
}

#[tokio::test]
async fn a_login_is_given_where_it_is_asked_for() {
    let credentials = Some(("post@roost".to_owned(), "s3:cret".to_owned()));
    let inbox = Mailbox::start(MailboxConfig {
        credentials,
        ..MailboxConfig::default()
    })
    .await
    .unwrap();
    let host = inbox.smtp_url().trim_start_matches("smtp://").to_owned();

    let knows = Mailer::from_url(&format!("smtp://post%40roost:s3%3Acret@{host}"), SENDER).unwrap();
    send(&knows).await.unwrap();
    assert_eq!(inbox.messages().len(), 1);

    // An operator can mend a wrong password: the mail must not be lost over it.
    let guesses = Mailer::from_url(&format!("smtp://post%40roost:guess@{host}"), SENDER).unwrap();
    let refused = send(&guesses).await.unwrap_err();
    assert!(matches!(refused, MailError::Transient(_)), "{refused}");
    assert!(refused.to_string().contains("535"), "{refused}");
}

#[tokio::test]
async fn a_booking_is_looked_at_on_its_page_and_an_address_is_proved_at_the_api() {
    let world = World::start().await;
    let (host, guest) = (world.host().await, world.guest().await);
    let flat = world.lists(&host, json!({})).await;
    let booked = world
        .books(&guest, flat, world.day(30), world.day(33), "pm_card_visa")
        .await;
    let page = format!("{WEB_URL}/bookings/{}/", id_of(&booked.expect(201)));

    for (reader, subject) in [(&guest, "Booked: "), (&host, "New booking: ")] {
        let of_booking = |mail: &Message| mail.is_to(&reader.email) && mail.subject.starts_with(subject);
        let mail = world.mailbox.wait_for(of_booking, PATIENCE).await.unwrap();
        assert_eq!(mail.links, [page.as_str()], "{subject}");
    }
    let of_address = |mail: &Message| mail.is_to(&guest.email) && mail.subject.starts_with("Confirm your");
    let mail = world.mailbox.wait_for(of_address, PATIENCE).await.unwrap();
    let (path, _token) = mail.links[0].split_once("?token=").unwrap();
    assert_eq!(path, "http://roost.test/auth/verify-email");
}
