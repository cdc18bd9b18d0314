//! The sandbox as a process of its own, the way `make run` and compose start it.

use std::process::Stdio;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};

use super::receiver::{Receiver, SECRET};

/// Starts the program on a free port and returns it with the address of its first line.
async fn start(arguments: &[&str]) -> (Child, String) {
    let mut process = Command::new(env!("CARGO_BIN_EXE_stripe-sandbox"))
        .args(["--listen", "127.0.0.1:0"])
        .args(arguments)
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let output = process.stdout.take().unwrap();
    let mut lines = BufReader::new(output).lines();
    let first = lines.next_line();
    let first = tokio::time::timeout(Duration::from_secs(20), first)
        .await
        .unwrap()
        .unwrap()
        .unwrap();
    let address = first
        .strip_prefix("listening on ")
        .expect("the address comes first")
        .to_owned();
    (process, address)
}

#[tokio::test]
async fn the_program_says_where_it_listens_delivers_webhooks_and_ends_on_sigterm() {
    let receiver = Receiver::start().await;
    let (mut process, address) = start(&[
        "--webhook-url",
        &receiver.url,
        "--webhook-secret",
        SECRET,
        "--secret-key",
        "sk_test_own",
    ])
    .await;
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let create = |key: &'static str| {
        let request = client.post(format!("{address}/v1/payment_intents")).bearer_auth(key);
        request
            .header("content-type", "application/x-www-form-urlencoded")
            .body("amount=700&currency=usd")
            .send()
    };
    assert_eq!(create("sk_test_other").await.unwrap().status(), 401);
    assert_eq!(create("sk_test_own").await.unwrap().status(), 200);
    assert_eq!(receiver.wait_for(1).await[0].kind(), "payment_intent.created");

    let pid = process.id().unwrap().to_string();
    assert!(
        Command::new("kill")
            .args(["-TERM", &pid])
            .status()
            .await
            .unwrap()
            .success()
    );
    let status = tokio::time::timeout(Duration::from_secs(20), process.wait())
        .await
        .unwrap()
        .unwrap();
    assert!(status.success(), "{status}");
}
