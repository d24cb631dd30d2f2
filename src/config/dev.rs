//! Dev: writes the settings of a development cluster on loopback.

use std::fmt::Write;
use std::path::Path;

/// The name of the `i`-th node: a, b, c … z, n27, n28 ….
fn name(i: u16) -> String {
    match u8::try_from(i) {
        Ok(i @ 0..=25) => char::from(b'a' + i).to_string(),
        _ => format!("n{}", u32::from(i) + 1),
    }
}

/// Quotes a text as TOML does.
fn quoted(text: &str) -> toml::Value {
    toml::Value::String(text.to_owned())
}

/// Writes the settings; see `Config::dev`.
pub(super) fn render(nodes: u16, port: u16, data: &Path, secret: &str, cookie: &str) -> String {
    let mut text = format!(
        "# Written by `rookery dev`; see cluster.toml of the project for what else can be set.\n\
         [cluster]\nname = \"dev\"\ncookie = {}\n\n\
         [auth]\ntoken_secret = {}\nopen_registration = true\n",
        quoted(cookie),
        quoted(secret),
    );
    for i in 0..nodes {
        let name = name(i);
        // Wider than 16 bits, so that a port past the last is refused by its line and not by a panic here.
        let port = u32::from(port) + u32::from(i);
        let data = data.join(&name);
        // Writing into a string cannot fail.
        let _ = write!(
            text,
            "\n[[node]]\nname = \"{name}\"\nlisten = \"127.0.0.1:{port}\"\n\
             admin_listen = \"127.0.0.1:{}\"\ncluster_listen = \"127.0.0.1:{}\"\n\
             url = \"http://127.0.0.1:{port}\"\ndata = {}\n",
            port + 100,
            port + 200,
            quoted(&data.to_string_lossy()),
        );
    }
    text
}
