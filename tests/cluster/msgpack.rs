//! Promise: the two encodings carry the same frames.

use serde_json::json;
use tokio_tungstenite::tungstenite::Message;

use crate::harness::shared;
use crate::socket::{MSGPACK, Socket};

#[tokio::test]
async fn a_msgpack_client_and_a_json_client_chat() {
    let cluster = shared().await;
    let (alice, bob) = (cluster.user("alice").await, cluster.user("bob").await);
    let mut a = Socket::open(&cluster.url("a"), Some(MSGPACK)).await.unwrap();
    assert_eq!(a.expect_hello().await["protocol"], 1);
    a.auth(&alice.token, "phone", None).await;
    let mut b = Socket::login(&cluster.url("b"), &bob.token, "phone").await;
    let client = json!({"nested": {"list": [1, -2, 3.5, "x", null, true]}});
    let d = json!({"to": bob.conv(), "cid": "c", "kind": "text", "body": "ünï", "client": client});
    let ok = a.request("send", d).await.unwrap();
    let message = b.event("message").await;
    assert_eq!((&message["d"]["mid"], &message["d"]["body"]), (&ok["mid"], &json!("ünï")));
    assert_eq!(message["d"]["client"], client);
    b.ack(1).await;
    a.receipt("delivered", 1).await;
    let d =
        json!({"to": alice.conv(), "cid": "c", "kind": "text", "body": "back", "client": client});
    b.request("send", d).await.unwrap();
    let back = a.event("message").await;
    assert_eq!((&back["d"]["body"], &back["d"]["client"]), (&json!("back"), &client));
    assert_eq!(a.refused("send", json!({"to": bob.conv()})).await, "bad_request");
}

#[tokio::test]
async fn text_on_a_msgpack_socket_closes_with_4300() {
    let cluster = shared().await;
    let alice = cluster.user("alice").await;
    let mut socket = Socket::open(&cluster.first_url(), Some(MSGPACK)).await.unwrap();
    socket.expect_hello().await;
    socket.auth(&alice.token, "phone", None).await;
    socket.write(Message::text("{\"op\":\"ping\",\"d\":{}}")).await.unwrap();
    assert_eq!(socket.expect_close().await, 4300);
}

#[tokio::test]
async fn broken_msgpack_closes_with_4300() {
    let cluster = shared().await;
    let alice = cluster.user("alice").await;
    // A map of 2³² − 1 entries that are not there, a truncated string, a reserved byte, bytes after the end.
    let broken: [&[u8]; 4] =
        [&[0xdf, 0xff, 0xff, 0xff, 0xff], &[0x81, 0xa2, b'o'], &[0xc1], &[0x80, 0x80]];
    for (i, bytes) in broken.iter().enumerate() {
        let mut socket = Socket::open(&cluster.first_url(), Some(MSGPACK)).await.unwrap();
        socket.expect_hello().await;
        socket.auth(&alice.token, &format!("d{i}"), None).await;
        socket.write(Message::binary(bytes.to_vec())).await.unwrap();
        assert_eq!(socket.expect_close().await, 4300, "{bytes:?}");
    }
}
