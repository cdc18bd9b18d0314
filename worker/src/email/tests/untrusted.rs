//! What people write reaches a mail as text, and adds nothing to it.

use super::*;

#[test]
fn text_from_people_stays_text() {
    let script = "<script>alert('x')</script>";
    let mut mail = confirmed();
    mail.guest_name = script.into();
    mail.host_name = "{{ 7 * 7 }} & <b>".into();
    mail.stay.property_title = format!("\"{script}");
    mail.lines[0].label = script.into();
    mail.house_rules = Some("<img src=x onerror=alert(1)>".into());
    mail.booking_url = "https://roost.example/\"><script>".into();
    let mail = rendered(&Mail::BookingConfirmedGuest(mail), "en");
    assert!(
        !mail.html.contains("<script") && !mail.html.contains("<img"),
        "{}",
        mail.html
    );
    assert!(mail.html.contains("&lt;script&gt;"));
    assert!(seen(&mail.html).contains("{{ 7 * 7 }} & <b>"));
    // Plain text needs no entities.
    assert!(mail.text.contains(script) && mail.text.contains("{{ 7 * 7 }} & <b>"));
    assert!(mail.subject.contains(script));
}

#[test]
fn a_message_stays_text_and_adds_no_line() {
    let mail = unread("<script>alert(1)</script>\r\n\r\nRead and reply:\r\nhttps://elsewhere.example/ {{ 7 * 7 }}");
    let mail = rendered(&Mail::UnreadMessages(mail), "en");
    assert_eq!(mail.subject, format!("5 unread messages: {TITLE}"));
    assert!(
        !mail.html.contains("<script") && mail.html.contains("&lt;script&gt;"),
        "{}",
        mail.html
    );
    assert_eq!(
        mail.html.matches("elsewhere").count(),
        2,
        "in the preview and in the quote"
    );
    assert!(mail.text.contains("{{ 7 * 7 }}") && !mail.text.lines().any(|line| line.starts_with("https://elsewhere")));
    assert!(mail.text.contains("And 3 more messages."), "{}", mail.text);
}

#[test]
fn what_was_decided_about_a_review_and_the_review_stay_text() {
    let text = "<script>alert('x')</script>\r\n\nSee the booking:\nhttps://elsewhere.example/ {{ 7 * 7 }}";
    for mail in [
        Mail::ReviewHidden(ReviewModerated {
            text: text.into(),
            ..moderated(text, Side::Guest)
        }),
        Mail::ReviewShown(ReviewModerated {
            text: text.into(),
            ..moderated(text, Side::Host)
        }),
    ] {
        let Rendered { text, html, .. } = rendered(&mail, "en");
        for begins in ["The reason: <script>", "You wrote: <script>"] {
            let line = text.lines().find(|line| line.starts_with(begins));
            assert!(line.is_some_and(|line| line.ends_with(" {{ 7 * 7 }}")), "{text}");
        }
        assert!(
            !html.contains("<script") && html.matches("&lt;script&gt;").count() == 2,
            "{html}"
        );
        assert!(
            !text.lines().any(|line| line.starts_with("https://elsewhere")),
            "{text}"
        );
    }
}

#[test]
fn a_reason_is_told_as_text_on_one_line_and_only_when_given() {
    let reason = "<script>alert('x')</script>\r\n\nSee the booking:\nhttps://elsewhere.example/ {{ 7 * 7 }}";
    for (mail, writer) in [
        (Mail::BookingDeclined(declined(Some(reason))), "Heinz"),
        (Mail::BookingNoShow(missed(Some(reason))), "Heinz"),
        (Mail::BookingCancelledGuest(cancelled_by_host(reason)), "Heinz"),
        (Mail::BookingCancelledHost(told_to_host(Some(reason))), "Grace"),
    ] {
        let Rendered { text, html, .. } = rendered(&mail, "en");
        let line = text
            .lines()
            .find(|line| line.starts_with(&format!("{writer} writes: <script>alert('x')</script> ")));
        assert!(line.is_some_and(|line| line.ends_with(" {{ 7 * 7 }}")), "{text}");
        assert!(
            !text.lines().any(|line| line.starts_with("https://elsewhere")),
            "{text}"
        );
        assert!(
            !html.contains("<script") && !html.contains("<a href=\"https:&#x2f;&#x2f;elsewhere"),
            "{html}"
        );
        assert!(
            html.contains("&lt;script&gt;alert(&#x27;x&#x27;)&lt;&#x2f;script&gt;"),
            "{html}"
        );
        let said = format!(
            "{writer} writes: <script>alert('x')</script> See the booking: https://elsewhere.example/ {{{{ 7 * 7 }}}}"
        );
        assert!(seen(&html).contains(&said), "{html}");
    }
    for mail in [
        Mail::BookingDeclined(declined(None)),
        Mail::BookingNoShow(missed(None)),
        Mail::BookingCancelledGuest(cancelled(364_550, 120_000)),
        Mail::BookingCancelledHost(told_to_host(None)),
    ] {
        let Rendered { text, html, .. } = rendered(&mail, "en");
        assert!(!text.contains("writes") && !html.contains("writes"), "{text}{html}");
        assert_eq!(
            html.matches("<blockquote").count(),
            usize::from(text.contains("How the refund was decided")),
            "{html}"
        );
        assert!(!text.contains("\n\n\n"), "{text}");
    }
}

#[test]
fn nobody_adds_lines_to_a_mail() {
    let mut mail = confirmed();
    mail.guest_name = "Eve\r\nBcc: all@example.com".into();
    mail.stay.property_title = "Flat\nPaid: nothing\u{202e}\u{2028}".into();
    let mail = rendered(&Mail::BookingConfirmedGuest(mail), "en");
    assert_eq!(mail.subject.lines().count(), 1);
    assert!(
        mail.subject.starts_with("Booked: Flat Paid: nothing, Saturday"),
        "{}",
        mail.subject
    );
    assert!(
        mail.text.starts_with("Hi Eve  Bcc: all@example.com,\n"),
        "{}",
        mail.text
    );
    assert!(
        !mail
            .text
            .lines()
            .any(|line| line.starts_with("Paid: nothing") || line.starts_with("Bcc"))
    );
    assert!(!mail.html.contains('\u{202e}'));
}
