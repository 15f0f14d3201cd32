//! Connection attempts that time out. They need no MySQL.
use seckill_ledger::Ledger;
use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpListener, TcpStream};

/// Keeps each connection open after `greeting`. Answers the error of a ledger that connects, and the address.
async fn error_of_silence_after(greeting: &'static [u8]) -> (String, String) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("bound").to_string();
    let server = tokio::spawn(async move {
        let mut open: Vec<TcpStream> = Vec::new();
        while let Ok((mut stream, _)) = listener.accept().await {
            stream.write_all(greeting).await.expect("written");
            open.push(stream);
        }
    });
    let ledger = Ledger::connect(&format!("mysql://u:secret@{address}/x"), 1).await;
    server.abort();
    (ledger.expect_err("no greeting").to_string(), address)
}

#[tokio::test]
async fn a_server_without_a_greeting_is_reported_with_advice() {
    let (error, address) = error_of_silence_after(b"").await;
    assert!(error.contains(&address) && error.contains("no greeting"), "{error}");
    assert!(error.contains("skip_name_resolve"), "{error}");
    assert!(!error.contains("secret"), "{error}");
}

#[tokio::test]
async fn a_login_without_an_end_is_reported_as_such() {
    // The beginning of a greeting: its length and number.
    let (error, address) = error_of_silence_after(&[74, 0, 0, 0]).await;
    assert!(
        error.contains(&address) && error.contains("TLS or the login"),
        "{error}"
    );
}
