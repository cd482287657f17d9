//! The dispatcher beside the gateway: kept, found again, asked by the controller, ended last.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;

use rustix::process::Signal;

use crate::site::{AGENT, SETTINGS, Site};

/// No server is there; workers could connect all the same.
const LIVEKIT: &str = r#"
[agents.desk.livekit]
name = "desk"

[livekit]
url = "ws://127.0.0.1:9"
api_key = "key"
secret_file = "livekit.secret"
listen = "127.0.0.1:0"
unsigned = true
"#;

fn site() -> Site {
    let site = Site::prepare(SETTINGS, LIVEKIT);
    fs::write(
        site.dir.join("livekit.secret"),
        "a secret of thirty-two bytes or more\n",
    )
    .unwrap();
    site
}

/// Whether workers are served.
fn answers(site: &Site) -> bool {
    let ask = || -> std::io::Result<String> {
        let addr = site.state("run/dispatch.addr").unwrap_or_default();
        let mut stream = TcpStream::connect(addr)?;
        stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    };
    ask().is_ok_and(|answer| answer.starts_with("HTTP/1.1 200"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dispatcher_is_kept_and_acknowledges_like_a_gateway() {
    let mut site = site();
    site.serve().await;
    site.until("workers are served", || answers(&site)).await;
    site.deploy("v1");
    let status = site.json(&["status"]);
    let gateways = status["gateways"].as_array().unwrap();
    let dispatcher = gateways
        .iter()
        .find(|gateway| gateway["gateway"] == "dispatch-1");
    let epoch = dispatcher.map(|gateway| gateway["epochs"][AGENT].as_u64());
    assert!(epoch.flatten() > Some(0), "{gateways:?}");

    let pid = site.pid("run/dispatch.json");
    assert!(site.kill("run/dispatch.json"));
    let another = || {
        let now = site.pid("run/dispatch.json");
        now.is_some() && now != pid && answers(&site)
    };
    site.until("another one serves workers", another).await;
    site.deploy("v2");

    // What it has read it keeps, and whoever changes that is told.
    let config = site.dir.join("segue.toml");
    let text = fs::read_to_string(&config).unwrap();
    let named = "[agents.desk.livekit]\n";
    fs::write(
        &config,
        text.replace(named, &format!("{named}hold = \"1s\"\n")),
    )
    .unwrap();
    let said = |what: &str| {
        let output = site.run(&["reload"]);
        assert!(output.status.success());
        String::from_utf8_lossy(&output.stderr).contains(what)
    };
    let kill = format!("kill -9 {}", site.pid("run/dispatch.json").unwrap());
    assert!(said(&kill));
    assert!(!said(&kill), "it is said once");

    // The next supervisor finds it.
    let pid = site.pid("run/dispatch.json");
    site.kill_serve();
    site.serve().await;
    assert_eq!(site.pid("run/dispatch.json"), pid);
    site.end_serve(Signal::INT).await;
    assert!(!answers(&site), "it has ended");
}

#[test]
fn a_dispatcher_without_its_configuration_says_what_is_missing() {
    let refused = |site: &Site, what: &str| {
        let output = site.run(&["dispatch"]);
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success());
        assert!(error.contains(what) && error.contains("hint: "), "{error}");
    };
    refused(&Site::prepare(SETTINGS, ""), "has no [livekit]");
    let site = Site::prepare(SETTINGS, LIVEKIT);
    refused(&site, "livekit.secret cannot be read");
    let signed = "environment = \"test\"\nkeys = \"keys.jsonl\"\nmanifest = \"manifest.jws\"\n";
    let site = Site::prepare(SETTINGS, &LIVEKIT.replace("unsigned = true\n", signed));
    fs::write(site.dir.join("livekit.secret"), "secret").unwrap();
    refused(&site, "keys.jsonl cannot be read");
}
