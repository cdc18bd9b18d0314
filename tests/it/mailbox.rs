//! The mailbox itself: the conversation of RFC 5321 word by word, its JSON and its pages.

use std::time::Duration;

use reqwest::StatusCode;
use roost_tests::mailbox::{Mailbox, MailboxConfig, Message};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufStream},
    net::TcpStream,
};

/// A client that says what it is told and reads the codes.
struct Client {
    stream: BufStream<TcpStream>,
}

impl Client {
    async fn connect(inbox: &Mailbox) -> Self {
        let address = inbox.smtp_url().trim_start_matches("smtp://").to_owned();
        let stream = BufStream::new(TcpStream::connect(address).await.unwrap());
        let mut client = Self { stream };
        assert_eq!(client.code().await, "220");
        client
    }

    async fn write(&mut self, bytes: &str) {
        self.stream.write_all(bytes.as_bytes()).await.unwrap();
        self.stream.flush().await.unwrap();
    }

    /// The code of the next reply, all its lines read; empty at the end of the stream.
    async fn code(&mut self) -> String {
        loop {
            let mut line = String::new();
            let read = self.stream.read_line(&mut line);
            tokio::time::timeout(Duration::from_secs(5), read)
                .await
                .expect("a reply")
                .unwrap();
            if line.get(3..4) != Some("-") {
                return line.chars().take(3).collect();
            }
        }
    }

    async fn says(&mut self, line: &str) -> String {
        self.write(&format!("{line}\r\n")).await;
        self.code().await
    }
}

async fn inbox() -> Mailbox {
    Mailbox::start(MailboxConfig::default()).await.unwrap()
}

/// Delivers `subject` to `address` over SMTP.
async fn deliver(inbox: &Mailbox, address: &str, subject: &str) {
    let mut client = Client::connect(inbox).await;
    client
        .write(&format!(
            "EHLO test\r\nMAIL FROM:<a@example.com>\r\nRCPT TO:<{address}>\r\nDATA\r\n"
        ))
        .await;
    for expected in ["250", "250", "250", "354"] {
        assert_eq!(client.code().await, expected);
    }
    let content = format!("Subject: {subject}\r\n\r\nhttps://roost.example/x\r\n.");
    assert_eq!(client.says(&content).await, "250");
    assert_eq!(client.says("QUIT").await, "221");
}

#[tokio::test]
async fn the_conversation_has_an_order() {
    let inbox = inbox().await;
    let mut client = Client::connect(&inbox).await;
    for (line, code) in [
        ("MAIL FROM:<a@example.com>", "503"),
        ("EHLO test", "250"),
        ("RCPT TO:<b@example.com>", "503"),
        ("DATA", "503"),
        ("MAIL FROM:<a@example.com> SIZE=99999999999", "552"),
        ("MAIL FROM:<a@example.com> SIZE=100 BODY=8BITMIME", "250"),
        ("MAIL FROM:<a@example.com>", "503"),
        ("DATA", "503"),
        ("RCPT TO:<b@example.com>", "250"),
        ("RSET", "250"),
        ("DATA", "503"),
        ("NOOP", "250"),
        ("VRFY b", "252"),
        ("HELP", "214"),
        ("STARTTLS", "502"),
        ("AUTH PLAIN AGEAYg==", "502"),
        ("FROBNICATE", "500"),
        ("MAIL TO:<a@example.com>", "501"),
        ("mail from:<>", "250"),
        ("QUIT", "221"),
        ("", ""),
    ] {
        assert_eq!(client.says(line).await, code, "{line}");
    }
    assert!(inbox.messages().is_empty());
}

#[tokio::test]
async fn commands_may_come_in_one_piece_or_in_crumbs() {
    let inbox = inbox().await;
    deliver(&inbox, "b@example.com", "piece").await;
    let mut client = Client::connect(&inbox).await;
    for crumb in ["EH", "LO te", "st\r", "\n"] {
        client.write(crumb).await;
        tokio::task::yield_now().await;
    }
    assert_eq!(client.code().await, "250");
    client.write("MAIL FROM:<a@example.com>\r\nRCPT TO:<b@example.com>\r\nRCPT TO:<C@example.com>\r\nDATA\r\nSubject: crumbs\r\n\r\n..\r").await;
    for expected in ["250", "250", "250", "354"] {
        assert_eq!(client.code().await, expected);
    }
    client.write("\nend\r\n.\r\nNOOP\r\n").await;
    assert_eq!((client.code().await, client.code().await), ("250".into(), "250".into()));
    let messages = inbox.messages();
    assert_eq!(messages[1].to, ["b@example.com", "c@example.com"]);
    assert_eq!(messages[1].raw, b"Subject: crumbs\r\n\r\n.\r\nend\r\n");
}

#[tokio::test]
async fn an_empty_message_ends_with_its_dot() {
    let inbox = inbox().await;
    let mut client = Client::connect(&inbox).await;
    for line in ["EHLO test", "MAIL FROM:<>", "RCPT TO:<b@example.com>"] {
        assert_eq!(client.says(line).await, "250", "{line}");
    }
    assert_eq!(client.says("DATA").await, "354");
    assert_eq!(client.says(".").await, "250");
    assert_eq!(inbox.messages()[0].raw, b"");
}

#[tokio::test]
async fn nonsense_does_not_end_the_conversation() {
    let inbox = inbox().await;
    let mut client = Client::connect(&inbox).await;
    assert_eq!(client.says(&"x".repeat(20_000)).await, "500");
    assert_eq!(client.says("EHLO test").await, "250");
    assert_eq!(client.says("\u{fffd}\u{1}\u{2}").await, "500");
    assert_eq!(client.says("NOOP").await, "250");
}

#[tokio::test]
async fn a_login_may_take_two_steps() {
    let credentials = Some(("user".to_owned(), "pass".to_owned()));
    let inbox = Mailbox::start(MailboxConfig {
        credentials,
        ..MailboxConfig::default()
    })
    .await
    .unwrap();
    let mut client = Client::connect(&inbox).await;
    for (line, code) in [
        ("EHLO test", "250"),
        ("MAIL FROM:<a@example.com>", "530"),
        ("AUTH LOGIN", "504"),
        ("AUTH PLAIN", "334"),
        ("bm9ib2R5", "535"),
        ("MAIL FROM:<a@example.com>", "530"),
        ("AUTH PLAIN", "334"),
        ("AHVzZXIAcGFzcw==", "235"),
        ("MAIL FROM:<a@example.com>", "250"),
    ] {
        assert_eq!(client.says(line).await, code, "{line}");
    }
}

#[tokio::test]
async fn the_newest_thousand_are_kept() {
    let capacity = 3;
    let inbox = Mailbox::start(MailboxConfig {
        capacity,
        ..MailboxConfig::default()
    })
    .await
    .unwrap();
    for number in 1..=5 {
        deliver(&inbox, "b@example.com", &format!("mail {number}")).await;
    }
    let subjects: Vec<_> = inbox.messages().iter().map(|mail| mail.subject.clone()).collect();
    assert_eq!(subjects, ["mail 3", "mail 4", "mail 5"]);
}

#[tokio::test]
async fn waiting_ends_with_the_mail_or_with_what_came_instead() {
    let inbox = inbox().await;
    let (found, ()) = tokio::join!(
        inbox.wait_for(|mail| mail.subject == "late", Duration::from_secs(5)),
        async {
            deliver(&inbox, "b@example.com", "early").await;
            deliver(&inbox, "b@example.com", "late").await;
        }
    );
    assert_eq!(found.unwrap().id, 2);
    let missing = inbox
        .wait_for(|mail| mail.subject == "never", Duration::from_millis(50))
        .await;
    assert!(missing.unwrap_err().to_string().contains("early to b@example.com"));
}

#[tokio::test]
async fn mail_is_there_as_json() {
    let inbox = inbox().await;
    for (address, subject) in [
        ("ada@example.com", "First"),
        ("bob@example.com", "Second"),
        ("ada@example.com", "Third"),
    ] {
        deliver(&inbox, address, subject).await;
    }
    let api = |path: &str| format!("{}/api/{path}", inbox.http_url());
    let subjects = |query: &'static str| {
        let url = api(&format!("messages{query}"));
        async move {
            let found: Vec<Message> = reqwest::get(url).await.unwrap().json().await.unwrap();
            found.into_iter().map(|mail| mail.subject).collect::<Vec<_>>()
        }
    };
    assert_eq!(subjects("").await, ["Third", "Second", "First"]);
    assert_eq!(subjects("?limit=1").await, ["Third"]);
    assert_eq!(subjects("?to=ADA@").await, ["Third", "First"]);
    assert_eq!(subjects("?to=ada&subject=fir").await, ["First"]);

    let one: Value = reqwest::get(api("messages/2")).await.unwrap().json().await.unwrap();
    assert_eq!(one["to"], json!(["bob@example.com"]));
    assert_eq!(one["links"], json!(["https://roost.example/x"]));
    assert_eq!(one["html"], Value::Null);
    assert_eq!(one["text"].as_str().map(str::trim), Some("https://roost.example/x"));

    let client = reqwest::Client::new();
    let status = |path: &'static str| {
        let request = client.delete(api(path)).send();
        async move { request.await.unwrap().status() }
    };
    assert_eq!(status("messages/2").await, StatusCode::NO_CONTENT);
    assert_eq!(status("messages/2").await, StatusCode::NOT_FOUND);
    assert_eq!(
        reqwest::get(api("messages/2")).await.unwrap().status(),
        StatusCode::NOT_FOUND
    );
    assert_eq!(subjects("").await, ["Third", "First"]);
    assert_eq!(status("messages").await, StatusCode::NO_CONTENT);
    assert!(inbox.messages().is_empty());
}

#[tokio::test]
async fn faults_can_be_asked_for_over_http() {
    let inbox = inbox().await;
    let url = format!("{}/api/faults", inbox.http_url());
    let fault = json!({ "at": "rcpt", "what": { "reply": 451 }, "times": 2 });
    let client = reqwest::Client::new();
    let post = |body: Value| client.post(&url).json(&body).send();
    assert_eq!(post(fault.clone()).await.unwrap().status(), StatusCode::NO_CONTENT);
    assert_eq!(
        post(json!({ "at": "lunch", "what": "hang" })).await.unwrap().status(),
        StatusCode::BAD_REQUEST
    );
    let pending: Value = reqwest::get(&url).await.unwrap().json().await.unwrap();
    assert_eq!(pending, json!([fault]));

    let mut smtp = Client::connect(&inbox).await;
    for (line, code) in [
        ("EHLO test", "250"),
        ("MAIL FROM:<a@example.com>", "250"),
        ("RCPT TO:<b@example.com>", "451"),
        ("RCPT TO:<b@example.com>", "451"),
        ("RCPT TO:<b@example.com>", "250"),
    ] {
        assert_eq!(smtp.says(line).await, code, "{line}");
    }
}

#[tokio::test]
async fn pages_show_mail_as_text_and_run_none_of_it() {
    let inbox = inbox().await;
    let mut client = Client::connect(&inbox).await;
    for line in ["EHLO test", "MAIL FROM:<a@example.com>", "RCPT TO:<b@example.com>"] {
        assert_eq!(client.says(line).await, "250", "{line}");
    }
    assert_eq!(client.says("DATA").await, "354");
    let content = "Subject: <script>alert(1)</script>\r\nContent-Type: text/html\r\n\r\n\
                   <head></head><script>alert(2)</script>\r\n.";
    assert_eq!(client.says(content).await, "250");

    let read = |path: &str| {
        let url = format!("{}{path}", inbox.http_url());
        async move { reqwest::get(url).await.unwrap() }
    };
    for path in ["/", "/messages/1", "/messages/1?part=raw", "/messages/1?part=text"] {
        let page = read(path).await.text().await.unwrap();
        assert!(page.contains("&lt;script&gt;alert(1)"), "{path}: {page}");
        assert!(!page.contains("<script>alert"), "{path}: {page}");
    }
    let page = read("/messages/1").await.text().await.unwrap();
    assert!(
        page.contains("<iframe") && page.contains("sandbox=\"allow-popups"),
        "{page}"
    );
    let frame = read("/messages/1/html").await;
    let policy = frame.headers()["content-security-policy"].to_str().unwrap().to_owned();
    assert!(
        policy.contains("default-src 'none'") && policy.contains("sandbox"),
        "{policy}"
    );
    assert!(!policy.contains("allow-scripts"));
    assert!(frame.text().await.unwrap().contains("<script>alert(2)</script>"));
    let source = read("/messages/1/raw").await;
    assert_eq!(source.headers()["content-type"], "text/plain; charset=utf-8");
    assert_eq!(read("/messages/2").await.status(), StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn a_dropped_mailbox_is_gone() {
    let inbox = inbox().await;
    let (smtp, http) = (inbox.smtp_url(), inbox.http_url());
    let mut client = Client::connect(&inbox).await;
    inbox.stop().await;
    // The open connection ends as well.
    assert_eq!(client.code().await, "");
    assert!(TcpStream::connect(smtp.trim_start_matches("smtp://")).await.is_err());
    assert!(TcpStream::connect(http.trim_start_matches("http://")).await.is_err());
}
