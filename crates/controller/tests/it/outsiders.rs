//! Other programs that look into our files while we write them: a backup, `sqlite3`, a curious
//! person.

use serde_json::json;

use crate::helper::{hear, play};
use crate::{Client, Directory, Running, spec};

#[tokio::test(flavor = "multi_thread")]
async fn who_looks_into_our_files_takes_nothing_out_of_them() {
    let directory = Directory::new();
    let spec_text = serde_json::to_string(&spec()).unwrap();
    let mut controller = play("controller", &directory, &[("IT_SPEC", &spec_text)]);
    let client = Client::connect(&directory.state()).await;
    client.token("ann", "viewer", 3_600).await;
    // Whoever closes a file last cleans up behind itself. It must not believe that it is the last.
    let mut visitor = play("visitor", &directory, &[]);
    hear(&mut visitor, "looked");
    assert!(visitor.wait().unwrap().success());

    client.token("ben", "viewer", 3_600).await;
    client.act("deploy", json!({ "label": "v1" })).await;
    let state = "/v1/calls/CA1/state";
    let put = client.ask("PUT", state, Some(&json!({ "step": 3 }))).await;
    assert_eq!(put.status, 201, "{put:?}");
    controller.kill().unwrap();
    controller.wait().unwrap();

    let running = Running::start(&directory, spec()).await;
    let client = &running.client;
    let tokens = client.ask("GET", "/v1/tokens", None).await.json();
    let names = |list: &serde_json::Value| -> Vec<String> {
        let list = list["tokens"].as_array().unwrap().iter();
        list.map(|is| is["name"].as_str().unwrap().to_owned())
            .collect()
    };
    assert_eq!(names(&tokens), ["ann", "ben"]);
    assert!(client.facts().await.contains(&"deployed".to_owned()));
    let kept = client.ask("GET", state, None).await;
    assert_eq!(
        (kept.status, &kept.json()["state"]),
        (200, &json!({ "step": 3 }))
    );
    running.stop().await;
}
