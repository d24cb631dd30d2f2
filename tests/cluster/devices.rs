//! Promise: each device of a user gets everything, and keeps its own place.

use serde_json::{Value, json};

use crate::harness::shared;
use crate::socket::Socket;

#[tokio::test]
async fn every_device_gets_every_message_at_its_own_pace() {
    let cluster = shared().await;
    let (alice, bob) = (cluster.user("alice").await, cluster.user("bob").await);
    let mut phone = Socket::login(&cluster.url("a"), &bob.token, "phone").await;
    let mut laptop = Socket::login(&cluster.url("b"), &bob.token, "laptop").await;
    let mut a = Socket::login(&cluster.url("c"), &alice.token, "phone").await;
    a.send(&bob.conv(), "c1", "one").await;
    let (on_phone, on_laptop) = (phone.event("message").await, laptop.event("message").await);
    assert_eq!(on_phone, on_laptop, "the same number for all devices");
    phone.ack(1).await;
    a.receipt("delivered", 1).await;
    laptop.leave().await;
    let mut laptop = Socket::login(&cluster.url("c"), &bob.token, "laptop").await;
    assert_eq!(laptop.event("message").await, on_laptop, "the laptop never acknowledged it");
}

#[tokio::test]
async fn what_one_device_sends_the_others_see() {
    let cluster = shared().await;
    let (alice, bob) = (cluster.user("alice").await, cluster.user("bob").await);
    let mut phone = Socket::login(&cluster.url("a"), &alice.token, "phone").await;
    let mut tablet = Socket::login(&cluster.url("b"), &alice.token, "tablet").await;
    let ok = phone.send(&bob.conv(), "c1", "from the phone").await;
    let copy = tablet.event("sent").await["d"].clone();
    let expected = json!({"mid": ok["mid"], "conv": bob.conv(), "seq": 1, "at": ok["at"], "cid": "c1",
        "device": "phone", "kind": "text", "body": "from the phone"});
    for (key, value) in expected.as_object().unwrap() {
        assert_eq!(&copy[key], value, "{key} of {copy}");
    }
}

#[tokio::test]
async fn a_newer_socket_of_the_same_device_replaces_the_older() {
    let cluster = shared().await;
    let alice = cluster.user("alice").await;
    let mut old = Socket::login(&cluster.url("a"), &alice.token, "phone").await;
    let mut other = Socket::login(&cluster.url("a"), &alice.token, "tablet").await;
    for node in ["b", "a"] {
        let new = Socket::login(&cluster.url(node), &alice.token, "phone").await;
        assert_eq!(old.expect_close().await, 4305, "replaced from node {node}");
        old = new;
    }
    other.request("device.list", json!({})).await.expect("another device is left alone");
}

#[tokio::test]
async fn devices_are_listed_and_removed() {
    let cluster = shared().await;
    let alice = cluster.user("alice").await;
    let mut phone = Socket::login(&cluster.url("a"), &alice.token, "phone").await;
    let mut lost = Socket::login(&cluster.url("b"), &alice.token, "lost").await;
    let list = phone.request("device.list", json!({})).await.unwrap();
    let mut names: Vec<&Value> =
        list["devices"].as_array().unwrap().iter().map(|device| &device["device"]).collect();
    names.sort_by_key(|name| name.as_str());
    assert_eq!(names, ["lost", "phone"]);
    let first = &list["devices"][0];
    assert!(first["last_seen_ms"].is_u64() && first["acked_n"].is_u64(), "{first}");

    phone.request("device.remove", json!({"device": "lost"})).await.unwrap();
    assert_eq!(lost.expect_close().await, 4304);
    let list = phone.request("device.list", json!({})).await.unwrap();
    assert_eq!(list["devices"].as_array().map(Vec::len), Some(1));
    assert_eq!(phone.refused("device.remove", json!({"device": "lost"})).await, "not_found");
}

#[tokio::test]
async fn a_ninth_device_is_refused_until_one_is_removed() {
    let cluster = shared().await;
    let alice = cluster.user("alice").await;
    let url = cluster.first_url();
    for i in 1..=8 {
        Socket::login(&url, &alice.token, &format!("d{i}")).await.leave().await;
    }
    let mut ninth = Socket::connect(&url).await;
    let id = ninth.ask("auth", json!({"token": alice.token, "device": "d9"})).await.unwrap();
    let err = ninth.reply(&id).await.expect_err("at most 8 devices");
    assert!(err["message"].as_str().unwrap().contains("device"), "{err}");
    let mut first = Socket::login(&url, &alice.token, "d1").await;
    first.request("device.remove", json!({"device": "d2"})).await.unwrap();
    Socket::login(&url, &alice.token, "d9").await;
}
