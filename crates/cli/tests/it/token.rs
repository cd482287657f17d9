//! Tokens, and asking from another machine: as far as one machine can be two.

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::mpsc;

use rcgen::generate_simple_self_signed;
use serde_json::Value;

use crate::site::{RAMP, SETTINGS, Site};

fn private(path: &Path, token: &Value) -> String {
    fs::write(path, token.as_str().unwrap()).unwrap();
    path.to_str().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_made_used_and_revoked() {
    let site = Site::open_with(SETTINGS, "").await;
    let made = site.json(&["token", "create", "ann", "--role", "operator"]);
    let id = made["id"].as_str().unwrap();
    let file = private(&site.dir.join("ann.token"), &made["token"]);
    let ann = ["--token-file", file.as_str()];

    site.ok(&[&["deploy", "v1"], &ann[..]].concat());
    let log = site.ok(&["audit"]);
    assert!(log.contains("operator:ann"), "{log}");
    let refused = site.run(&[&["token", "list"], &ann[..]].concat());
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!(refused.status.code(), Some(1), "{said}");
    assert!(
        said.contains("role operator") && said.contains("hint: "),
        "{said}"
    );

    let list = site.ok(&["token", "list"]);
    assert!(list.contains(id) && list.contains("operator"), "{list}");
    assert!(!list.contains(made["token"].as_str().unwrap()), "{list}");
    site.ok(&["token", "revoke", "ann"]);
    let list = site.ok(&["token", "list"]);
    assert!(list.contains("revoked"), "{list}");
    let refused = site.run(&[&["status"], &ann[..]].concat());
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(
        !refused.status.success() && said.contains("revoked"),
        "{said}"
    );
    let again = site.run(&["token", "revoke", "ann"]);
    assert_eq!(again.status.code(), Some(2));

    // The table is the token alone, so that it can be kept in a file.
    let output = site.run(&[
        "token",
        "create",
        "bob",
        "--role",
        "viewer",
        "--expires-in",
        "8h",
    ]);
    let token = String::from_utf8(output.stdout).unwrap();
    assert!(
        token.starts_with("segue_") && token.lines().count() == 1,
        "{token}"
    );
    let ends = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(ends.contains("bob is viewer until"), "{ends}");
}

#[tokio::test(flavor = "multi_thread")]
async fn another_machine_is_asked_over_tls() {
    let mut site = Site::prepare(SETTINGS, RAMP);
    let made = generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    fs::write(site.dir.join("cert.pem"), made.cert.pem()).unwrap();
    fs::write(site.dir.join("key.pem"), made.signing_key.serialize_pem()).unwrap();
    let config = fs::read_to_string(site.dir.join("segue.toml")).unwrap();
    let api = "[api]\nlisten = \"0.0.0.0:0\"";
    let tls = format!("{api}\ntls = {{ cert = \"cert.pem\", key = \"key.pem\" }}");
    let config = config.replace("[api]\nlisten = \"127.0.0.1:0\"", api);
    assert!(config.contains(api), "{config}");
    fs::write(site.dir.join("segue.toml"), &config).unwrap();
    let refused = site.run(&["controller"]);
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(
        !refused.status.success() && said.contains("`tls`"),
        "{said}"
    );

    fs::write(site.dir.join("segue.toml"), config.replace(api, &tls)).unwrap();
    site.serve().await;
    let made = site.json(&["token", "create", "ann", "--role", "operator"]);
    let token = private(&site.dir.join("ann.token"), &made["token"]);
    let addr = site.state("run/api.tls.addr").unwrap();
    let url = format!("https://localhost:{}", addr.rsplit(':').next().unwrap());
    let elsewhere = site.dir.join("elsewhere");
    let elsewhere = elsewhere.to_str().unwrap();
    let there = ["--home", elsewhere, "--api", &url, "--token-file", &token];
    let trusting = [&there[..], &["--ca", "cert.pem"]].concat();
    site.ok(&[&["deploy", "v1"], &trusting[..]].concat());
    let status = site.ok(&[&["status"], &trusting[..]].concat());
    assert!(
        status.contains("v1") && status.contains("current"),
        "{status}"
    );

    let untrusted = site.run(&[&["status"], &there[..]].concat());
    let said = String::from_utf8_lossy(&untrusted.stderr).into_owned();
    assert_eq!(untrusted.status.code(), Some(3), "{said}");
    for (args, wanted) in [
        (&["--api", "http://segue.example:1"][..], "in the open"),
        (&["--api", &url], "no token"),
        (
            &["--api", &url, "--token-file", "missing"],
            "no token in missing",
        ),
        (
            &["--api", &url, "--token-file", &token, "--ca", "key.pem"],
            "no certificates in key.pem",
        ),
    ] {
        let output = site.run(&[&["status"], args].concat());
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{args:?}: {said}");
        assert!(
            said.contains(wanted) && said.contains("hint: "),
            "{args:?}: {said}"
        );
    }
}

/// Reads one request, and answers it or hangs up.
fn request(stream: &TcpStream) -> (String, Option<String>) {
    let mut lines = BufReader::new(stream.try_clone().unwrap());
    let (mut first, mut key, mut length) = (String::new(), None, 0);
    loop {
        let mut line = String::new();
        lines.read_line(&mut line).unwrap();
        let lower = line.trim().to_ascii_lowercase();
        if lower.is_empty() {
            break;
        }
        if first.is_empty() {
            line.trim().clone_into(&mut first);
        }
        if let Some(value) = lower.strip_prefix("idempotency-key: ") {
            key = Some(value.to_owned());
        }
        if let Some(value) = lower.strip_prefix("content-length: ") {
            length = value.parse().unwrap();
        }
    }
    let mut body = vec![0; length];
    lines.read_exact(&mut body).unwrap();
    (first, key)
}

/// An API that hears a change, hangs up without an answer, is busy with it, and answers then.
#[tokio::test(flavor = "multi_thread")]
async fn a_change_that_was_not_answered_is_sent_again_with_its_key() {
    let site = Site::prepare(SETTINGS, "");
    let api = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", api.local_addr().unwrap());
    let (heard, hears) = mpsc::channel();
    let answers = [
        None,
        Some((
            "409 Conflict",
            r#"{"type":"in-progress","title":"-","status":409}"#,
        )),
        Some((
            "201 Created",
            r#"{"token":"segue_t","id":"0123456789ab","name":"ann","role":"viewer","created_at":1,"created_by":"api","expires_at":2}"#,
        )),
    ];
    std::thread::spawn(move || {
        for answer in answers {
            let (mut stream, _) = api.accept().unwrap();
            heard.send(request(&stream)).unwrap();
            if let Some((status, body)) = answer {
                let length = body.len();
                write!(stream, "HTTP/1.1 {status}\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}").unwrap();
            }
        }
    });
    fs::write(site.dir.join("token"), "x").unwrap();
    let told = site.ok(&[
        "token",
        "create",
        "ann",
        "--role",
        "viewer",
        "--api",
        &url,
        "--token-file",
        "token",
    ]);
    assert_eq!(told.trim(), "segue_t");
    let requests: Vec<_> = hears.iter().take(3).collect();
    assert!(requests[0].1.is_some(), "{requests:?}");
    assert_eq!(requests[0], requests[1]);
    assert_eq!(requests[1], requests[2]);
    assert_eq!(requests[0].0, "POST /v1/tokens HTTP/1.1");
}
