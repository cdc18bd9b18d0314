//! Mail over TLS: to whom it goes, to whom it does not, and what somebody in between gets to read.

use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use base64::{Engine, prelude::BASE64_STANDARD};
use roost_shared::jobs::Queue;
use roost_tests::mailbox::{Encryption, Fault, Mailbox, MailboxConfig, Misbehaviour, Stage};
use roost_tests::world::World;
use roost_worker::email::{MailError, Mailer};
use roost_worker::{Context, Worker};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use uuid::Uuid;

use crate::mail::{PATIENCE, SENDER, send};
use crate::programs::start_worker;

const USER: &str = "post@roost";
const PASSWORD: &str = "s3:cret";

/// A mailbox that wants a login.
async fn locked(encryption: Encryption) -> Mailbox {
    let credentials = Some((USER.to_owned(), PASSWORD.to_owned()));
    Mailbox::start(MailboxConfig {
        credentials,
        encryption,
        ..MailboxConfig::default()
    })
    .await
    .unwrap()
}

/// SMTP_URL with the login in it.
fn with_login(url: &str) -> String {
    url.replacen("://", "://post%40roost:s3%3Acret@", 1)
}

/// A PEM file that is gone when the test is.
struct CaFile(PathBuf);

impl CaFile {
    fn of(inbox: &Mailbox) -> Self {
        let path = std::env::temp_dir().join(format!("roost-ca-{}.pem", Uuid::new_v4()));
        std::fs::write(&path, inbox.authority_pem().unwrap()).unwrap();
        Self(path)
    }
}

impl Drop for CaFile {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

fn trusting(inbox: &Mailbox, url: &str) -> Mailer {
    Mailer::trusting(&CaFile::of(inbox).0, url, SENDER).unwrap()
}

/// The reason for which nothing went out for now.
async fn refusal(mailer: &Mailer, inbox: &Mailbox) -> String {
    let refused = send(mailer).await.unwrap_err();
    assert!(matches!(refused, MailError::Transient(_)), "{refused}");
    assert!(inbox.messages().is_empty());
    refused.to_string()
}

/// Somebody on the way who writes down what the client says.
struct Eavesdropper {
    port: u16,
    heard: Arc<Mutex<Vec<u8>>>,
}

impl Eavesdropper {
    async fn before(inbox: &Mailbox) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (port, target) = (listener.local_addr().unwrap().port(), inbox.smtp_address());
        let heard = Arc::new(Mutex::new(Vec::new()));
        let notes = Arc::clone(&heard);
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let server = TcpStream::connect(target).await.unwrap();
                tokio::spawn(relay(client, server, Arc::clone(&notes)));
            }
        });
        Self { port, heard }
    }

    fn heard(&self) -> String {
        String::from_utf8_lossy(&self.heard.lock().unwrap()).into_owned()
    }
}

async fn relay(client: TcpStream, server: TcpStream, notes: Arc<Mutex<Vec<u8>>>) {
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    let back = tokio::spawn(async move { tokio::io::copy(&mut from_server, &mut to_client).await });
    let mut piece = [0; 4_096];
    while let Ok(length @ 1..) = from_client.read(&mut piece).await {
        notes.lock().unwrap().extend(&piece[..length]);
        if to_server.write_all(&piece[..length]).await.is_err() {
            break;
        }
    }
    back.abort();
}

#[tokio::test]
async fn a_mail_goes_over_starttls_and_over_smtps() {
    for encryption in [Encryption::StartTls, Encryption::Implicit] {
        let inbox = locked(encryption).await;
        let mailer = trusting(&inbox, &with_login(&inbox.smtp_url()));
        for _ in 0..3 {
            send(&mailer).await.unwrap();
        }
        assert_eq!(
            (inbox.messages().len(), inbox.connections_seen()),
            (3, 1),
            "{encryption:?}"
        );
        assert!(inbox.messages()[0].is_to("grace@example.com"));
    }
}

#[tokio::test]
async fn starttls_that_is_offered_is_used_where_it_is_welcome() {
    let inbox = locked(Encryption::StartTls).await;
    let url = inbox.smtp_url().replace("tls=required", "tls=opportunistic");
    send(&trusting(&inbox, &with_login(&url))).await.unwrap();
    // What the mailbox refuses in the clear: it was encrypted.
    let clear = Mailer::from_url(&format!("smtp://{}", inbox.smtp_address()), SENDER).unwrap();
    let refused = send(&clear).await.unwrap_err();
    assert!(refused.to_string().contains("STARTTLS comes first"), "{refused}");
    assert_eq!(inbox.messages().len(), 1);
}

#[tokio::test]
async fn who_listens_on_the_way_hears_no_login_and_no_mail() {
    let inbox = locked(Encryption::StartTls).await;
    let listener = Eavesdropper::before(&inbox).await;
    let url = format!("smtp://localhost:{}?tls=required", listener.port);
    send(&trusting(&inbox, &with_login(&url))).await.unwrap();
    assert_eq!(inbox.messages().len(), 1);

    let heard = listener.heard();
    assert!(
        heard.starts_with("EHLO ") && heard.contains("\r\nSTARTTLS\r\n"),
        "{heard}"
    );
    let login = BASE64_STANDARD.encode(format!("\0{USER}\0{PASSWORD}"));
    for secret in ["AUTH", &login, PASSWORD, "grace@example.com", "MAIL FROM", "Subject"] {
        assert!(!heard.contains(secret), "{secret} in {heard}");
    }
}

#[tokio::test]
async fn a_server_without_tls_gets_no_login_where_tls_is_required() {
    let inbox = locked(Encryption::None).await;
    let listener = Eavesdropper::before(&inbox).await;
    let url = |scheme: &str, query: &str| with_login(&format!("{scheme}://localhost:{}{query}", listener.port));
    // It would take the login.
    let careless = Mailer::from_url(&url("smtp", ""), SENDER).unwrap();
    send(&careless).await.unwrap();
    assert!(listener.heard().contains("AUTH PLAIN"));
    inbox.clear();
    drop(careless);

    listener.heard.lock().unwrap().clear();
    let careful = Mailer::from_url(&url("smtp", "?tls=required"), SENDER).unwrap();
    let reason = refusal(&careful, &inbox).await;
    assert!(reason.contains("STARTTLS is not supported"), "{reason}");
    let heard = listener.heard();
    assert!(heard.contains("EHLO ") && !heard.contains("AUTH"), "{heard}");

    // To a server that speaks first the handshake is nonsense, and the other way round.
    let wrapped = Mailer::from_url(&url("smtps", ""), SENDER).unwrap();
    refusal(&wrapped, &inbox).await;
    assert!(!listener.heard().contains("AUTH"));
}

#[tokio::test]
async fn a_certificate_of_nobody_we_trust_gets_no_login_and_no_mail() {
    for encryption in [Encryption::StartTls, Encryption::Implicit] {
        let inbox = locked(encryption).await;
        let url = with_login(&inbox.smtp_url());
        let strangers = locked(encryption).await;
        for mailer in [
            Mailer::from_url(&url, SENDER).unwrap(),
            // An authority of the same name that did not sign this.
            trusting(&strangers, &url),
        ] {
            let reason = refusal(&mailer, &inbox).await;
            assert!(reason.contains("invalid peer certificate"), "{reason}");
        }
        send(&trusting(&inbox, &url)).await.unwrap();
    }
}

#[tokio::test]
async fn a_certificate_for_another_host_gets_no_login_and_no_mail() {
    for encryption in [Encryption::StartTls, Encryption::Implicit] {
        let inbox = locked(encryption).await;
        let elsewhere = with_login(&inbox.smtp_url().replace("localhost", "127.0.0.1"));
        let reason = refusal(&trusting(&inbox, &elsewhere), &inbox).await;
        assert!(reason.contains("not valid for name \"127.0.0.1\""), "{reason}");
        assert!(reason.contains("localhost"), "{reason}");
    }
}

#[tokio::test]
async fn a_server_that_cannot_encrypt_just_now_gets_the_mail_later() {
    let inbox = locked(Encryption::StartTls).await;
    for what in [Misbehaviour::Reply(454), Misbehaviour::Close] {
        inbox.inject(Fault {
            at: Stage::StartTls,
            what,
            times: 1,
        });
        let mailer = trusting(&inbox, &with_login(&inbox.smtp_url()));
        refusal(&mailer, &inbox).await;
        send(&mailer).await.unwrap();
        inbox.clear();
    }
    assert_eq!(inbox.faults_seen(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mail_that_found_no_trust_waits_until_an_operator_says_whom_to_trust() {
    let world = World::without_worker().await;
    let inbox = locked(Encryption::StartTls).await;
    let url = with_login(&inbox.smtp_url());
    let mailer = Mailer::from_url(&url, SENDER).unwrap();
    let context = Context {
        mailer,
        ..world.context()
    };
    let registry = roost_worker::jobs::registry();
    let worker = Worker::run(context, registry, &Queue::ALL, 4, Duration::from_secs(5));
    let guest = world.guest().await;
    let errors = async || -> Vec<Option<String>> {
        sqlx::query_scalar(
            "SELECT error FROM job_attempts JOIN jobs ON jobs.id = job_id WHERE kind = 'mail.send' AND outcome = 'retry'",
        )
        .fetch_all(world.pool())
        .await
        .unwrap()
    };
    world
        .eventually("tried and not sent", async || !errors().await.is_empty())
        .await;
    worker.stop().await;
    let reason = errors().await.remove(0).unwrap();
    assert!(reason.contains("invalid peer certificate: UnknownIssuer"), "{reason}");
    assert!(!reason.contains(PASSWORD) && !reason.contains(&guest.email), "{reason}");
    assert_eq!(world.jobs("mail.send").await, ["retrying=1"]);
    assert!(inbox.messages().is_empty());

    let authorities = CaFile::of(&inbox);
    let settings = [
        ("SMTP_URL", url.as_str()),
        ("SMTP_CA_FILE", authorities.0.to_str().unwrap()),
    ];
    let mut worker = start_worker(&world, &settings);
    let verify = inbox
        .wait_for(|mail| mail.is_to(&guest.email), 6 * PATIENCE)
        .await
        .unwrap();
    assert!(verify.subject.starts_with("Confirm your"), "{}", verify.subject);
    world
        .eventually("sent", async || world.jobs("mail.send").await == ["succeeded=1"])
        .await;
    worker.kill().await.unwrap();
    assert_eq!(inbox.messages().len(), 1);
}
