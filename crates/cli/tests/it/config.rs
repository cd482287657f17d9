//! Bad configurations: every fault at once, with line and column, and nothing is started.

use std::time::Duration;

use crate::site::Site;

/// How long `segue serve` may take to refuse.
const REFUSE_MAX: Duration = Duration::from_secs(20);

/// Runs `segue serve` on a configuration and answers what it says.
async fn serve(text: &str) -> (Option<i32>, String) {
    let site = Site::prepare("", "");
    std::fs::write(site.dir.join("segue.toml"), text).unwrap();
    let mut command = tokio::process::Command::from(site.command(&["serve"]));
    let refused = tokio::time::timeout(REFUSE_MAX, command.kill_on_drop(true).output()).await;
    let output = refused
        .unwrap_or_else(|_| panic!("this was not refused:\n{text}"))
        .unwrap();
    (
        output.status.code(),
        String::from_utf8(output.stderr).unwrap(),
    )
}

/// A bad configuration and what must be said about it, each at its line and column.
async fn check(text: &str, faults: &[&str]) {
    let (code, said) = serve(text).await;
    assert_eq!(code, Some(2), "{said}");
    for fault in faults {
        assert!(
            said.contains(&format!("segue.toml:{fault}")),
            "no {fault:?} in\n{said}"
        );
    }
    let told = said
        .lines()
        .filter(|line| line.starts_with("segue.toml:"))
        .count();
    assert_eq!(told, faults.len(), "{said}");
    assert!(said.contains("hint: "), "{said}");
}

#[tokio::test]
async fn every_bad_configuration_is_refused_with_its_place() {
    let agent = "[agents.desk]\ncommand = [\"bot\", \"{port}\"]\n";
    let cases: &[(&str, &[&str])] = &[
        ("[gateway", &["1:"]),
        ("", &["1:1"]),
        (&format!("[gatway]\n{agent}"), &["1:2"]),
        (&format!("[gateway]\nlisten = 8080\n{agent}"), &["2:10"]),
        (
            &format!("[gateway]\nlisten = \"nowhere\"\n{agent}"),
            &["2:10"],
        ),
        (
            &format!("[gateway]\ntls = {{ cert = \"c.pem\" }}\n{agent}"),
            &["2:7"],
        ),
        (
            &format!("[api]\nlisten = \"0.0.0.0:7070\"\n{agent}"),
            &["2:10"],
        ),
        (
            "[agents.\"a b\"]\ncommand = [\"bot\", \"{port}\"]\n",
            &["1:9"],
        ),
        ("[agents.desk]\ncommand = \"bot {port}\"\n", &["2:11"]),
        ("[agents.desk]\ncommand = [\"bot\"]\n", &["2:11"]),
        (
            "[agents.desk]\ncommand = [\"bot\", \"{prot}\", \"{port}\"]\n",
            &["2:"],
        ),
        (&format!("{agent}workers = 0\n"), &["3:11"]),
        (&format!("{agent}workers = \"two\"\n"), &["3:11"]),
        (&format!("{agent}capacity = -1\n"), &["3:12"]),
        (&format!("{agent}stickiness = 300\n"), &["3:14"]),
        (
            &format!("{agent}stickiness = \"2h\"\nstraggler_buffer = \"3h\"\n"),
            &["3:14"],
        ),
        (&format!("{agent}straggler_buffer = \"1s\"\n"), &["3:20"]),
        (&format!("{agent}health = \"healthz\"\n"), &["3:10"]),
        (&format!("{agent}on_rollback = \"jump\"\n"), &["3:15"]),
        (&format!("{agent}call_id = [\"body:x\"]\n"), &["3:"]),
        (&format!("{agent}call_id = [\"path:/ws/\"]\n"), &["3:"]),
        (&format!("{agent}max_tails = 99\n"), &["3:13"]),
        (
            &format!("{agent}[[agents.desk.steps]]\nshare = \"100%\"\nmin_calls = 1\n"),
            &["4:9"],
        ),
        (
            &format!("{agent}[agents.desk.smoke]\npath = \"/x\"\n"),
            &["3:"],
        ),
        (
            &format!("{agent}[agents.desk.limits]\ndrops = \"200%\"\n"),
            &["4:9"],
        ),
        (
            &format!("{agent}[[agents.desk.rules]]\nrelease = \"v2\"\n"),
            &["3:"],
        ),
        (
            &format!("{agent}worker = 2\nstandby = 5\nhosts = [1]\n[gateway]\nport = 1\n"),
            &["3:1", "4:11", "5:10", "7:1"],
        ),
    ];
    for (text, faults) in cases {
        check(text, faults).await;
    }
}

#[test]
fn a_missing_configuration_says_how_to_get_one() {
    let site = Site::prepare("", "");
    let output = site.run(&["serve", "--config", "nowhere.toml"]);
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(
        said.contains("nowhere.toml") && said.contains("segue init"),
        "{said}"
    );
}

#[test]
fn believing_strangers_is_warned_of() {
    let site = Site::prepare("", "");
    let said = |listen: &str| {
        let text = format!(
            "[agents.desk]\ncommand = [\"bot\", \"{{port}}\"]\n[agents.desk.livekit]\nname = \"desk\"\n\
             [livekit]\nurl = \"wss://a\"\napi_key = \"k\"\nsecret_file = \"s\"\nunsigned = true\n\
             listen = \"{listen}\"\n"
        );
        std::fs::write(site.dir.join("open.toml"), text).unwrap();
        let output = site.run(&["config", "check", "open.toml"]);
        assert!(output.status.success());
        String::from_utf8(output.stderr).unwrap()
    };
    let warned = said("0.0.0.0:7080");
    assert!(
        warned.contains("warning: ") && warned.contains("without a token"),
        "{warned}"
    );
    assert!(warned.contains("hint: "), "{warned}");
    assert_eq!(said("127.0.0.1:7080"), "");
}
