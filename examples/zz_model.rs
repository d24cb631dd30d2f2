#[path = "/tmp/model2.rs"]
mod model;
#[tokio::main(flavor="current_thread")]
async fn main() {
    let m = model::Model::new();
    println!("{} {}", m.node("a").await, m.node("b").await);
    loop {
        tokio::time::sleep(std::time::Duration::from_secs(5)).await;
        if std::path::Path::new("/tmp/cutall").exists() { let _ = std::fs::remove_file("/tmp/cutall"); m.close_all(4002); }
    }
}
