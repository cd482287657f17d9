//! Secrets that workers are started with do not come back out.

use std::fs;
use std::process::Stdio;

use serde_json::json;

use crate::helper::player;
use crate::{Client, Directory, spec};

const CANARY: &str = "canary-8d1c6f";

/// Every answer that there is to a GET, and what the controller said, without the canary; and the
/// release with everything else it is made of.
#[tokio::test(flavor = "multi_thread")]
async fn a_secret_is_in_no_answer_and_no_log() {
    let directory = Directory::new();
    let spec_text = serde_json::to_string(&spec()).unwrap();
    let log = directory.0.join("said.log");
    let file = fs::File::create(&log).unwrap();
    let more = [("IT_SPEC", spec_text.as_str()), ("IT_LOG", "1")];
    let mut command = player("controller", &directory, &more);
    let mut controller = command
        .stdout(Stdio::from(file.try_clone().unwrap()))
        .stderr(Stdio::from(file))
        .spawn()
        .unwrap();
    let client = Client::connect(&directory.state()).await;
    let body = json!({
        "label": "v1",
        "env": {
            "API_KEY": CANARY, "db_password": CANARY, "SMTP_PASS": CANARY, "DB_PASSWD": CANARY,
            "DATABASE_URL": format!("postgres://u:{CANARY}@db/x"), "MODE": "plain-to-see",
        },
        "reason": format!("with --password={CANARY}"),
    });
    let mut told = vec![client.act_text("deploy", body).await];
    crate::eventually("v1 to be current", async || {
        let view = client.agent().await;
        let is = crate::release(&view, "v1")?;
        (is.state == "current").then_some(())
    })
    .await;
    // A refusal, and a deploy of the same name, say something about it, too.
    let bad = json!({ "label": "v2", "env": { "X_TOKEN": CANARY, "1": "x" } });
    told.push(client.post("deploy", bad).await.body);
    let mut paths = vec![
        "/v1/status".to_owned(),
        "/v1/agents/desk".to_owned(),
        "/v1/agents/desk/calls".to_owned(),
        "/v1/agents/desk/releases/v1".to_owned(),
        "/v1/audit?limit=1000".to_owned(),
        "/v1/audit/verify".to_owned(),
        "/v1/tokens".to_owned(),
        "/v1/tokens/events".to_owned(),
        "/v1/openapi.json".to_owned(),
    ];
    let whole = client.ask("GET", &paths[3], None).await;
    let env = whole.json()["release"]["content"]["env"].clone();
    assert_eq!(env["API_KEY"], "***", "{env}");
    assert_eq!(env["db_password"], "***", "{env}");
    assert_eq!(env["DATABASE_URL"], "***", "{env}");
    assert_eq!(env["MODE"], "plain-to-see", "{env}");
    for path in paths.drain(..) {
        let answer = client.ask("GET", &path, None).await;
        assert_eq!(answer.status, 200, "{path}: {answer:?}");
        told.push(answer.body);
    }
    let authorization = format!("Bearer {}", client.token);
    let headers = [("Authorization", authorization.as_str())];
    let mut events = crate::http::Stream::open(client.addr, "/v1/events?after=0", &headers).await;
    let entries = client.status().await.journal.entries;
    loop {
        let (id, _, data) = events.event().await.unwrap();
        told.push(data.to_string());
        if id >= entries {
            break;
        }
    }
    controller.kill().unwrap();
    controller.wait().unwrap();
    let said = fs::read_to_string(&log).unwrap();
    assert!(
        said.contains("the admin API listens"),
        "it was logged: {said}"
    );
    told.push(said);
    assert!(
        told.iter().any(|text| text.contains("plain-to-see")),
        "something was shown"
    );
    for text in told {
        assert!(!text.contains(CANARY), "{text}");
    }
}

impl Client {
    async fn act_text(&self, verb: &str, body: serde_json::Value) -> String {
        let answer = self.post(verb, body).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        answer.body
    }
}
