//! Permits of outbound calls, through the binary.

use serde_json::{Value, json};

use crate::site::{SETTINGS, Site};

/// Asks the admin API with the local token; answers the status and the body.
pub(crate) fn ask(site: &Site, method: &str, path: &str, body: Option<&Value>) -> (u16, String) {
    let addr = site.state("run/api.addr").unwrap();
    let token = format!("Bearer {}", site.state("api.token").unwrap());
    let config = ureq::Agent::config_builder()
        .http_status_as_error(false)
        .build();
    let agent = ureq::Agent::new_with_config(config);
    let url = format!("http://{addr}{path}");
    let answer = match (method, body) {
        ("GET", _) => agent.get(&url).header("Authorization", &token).call(),
        ("DELETE", _) => agent.delete(&url).header("Authorization", &token).call(),
        ("PUT", Some(body)) => agent
            .put(&url)
            .header("Authorization", &token)
            .send_json(body),
        (_, body) => {
            let body = body.cloned().unwrap_or_default();
            agent
                .post(&url)
                .header("Authorization", &token)
                .send_json(&body)
        }
    };
    let mut answer = answer.unwrap();
    let text = answer.body_mut().read_to_string().unwrap();
    (answer.status().as_u16(), text)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_dials_keeps_its_release_from_being_taken_for_empty() {
    let site = Site::open_with(SETTINGS, "").await;
    site.deploy("v1");
    let permits = "/v1/agents/desk/permits";
    let body = json!({ "release": "v1", "call": "CAout1", "ttl": 600 });
    let (status, text) = ask(&site, "POST", permits, Some(&body));
    assert_eq!(status, 201, "{text}");
    let permit: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(
        (&permit["call"], &permit["release"]),
        (&json!("CAout1"), &json!("v1"))
    );
    site.deploy("v2");
    let (status, text) = ask(&site, "POST", permits, Some(&body));
    assert_eq!(status, 422, "{text}");
    assert!(
        text.contains("\"draining\"") && text.contains("hint"),
        "{text}"
    );
    // Killed in between, it is the same for the next controller.
    assert!(site.kill("run/controller.json"));
    site.until("the controller is back", || site.agent().is_some())
        .await;
    // One that began to drain after it, and has no permit out, is empty by now.
    site.deploy("v3");
    let drains = |label: &str| {
        let is = site.release(label);
        is.is_some_and(|is| is["state"] == "draining")
    };
    site.until("v2 is empty", || !drains("v2")).await;
    assert_eq!(site.release("v1").unwrap()["state"], "draining");
    let path = format!("{permits}/{}", permit["permit"].as_str().unwrap());
    let (status, _) = ask(&site, "PUT", &path, Some(&json!({ "ttl": 60 })));
    assert_eq!(status, 200);
    let (status, _) = ask(&site, "DELETE", &path, None);
    assert_eq!(status, 204);
    site.until("v1 is empty", || !drains("v1")).await;
}
