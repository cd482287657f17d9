//! `segue membership`: files that another JWT library reads, and reads from it; what is refused.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::{Value, json};

use crate::python::python;
use crate::site::{SEGUE, SETTINGS, Site};

/// A folder with keys; dropping it removes it.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let dir = std::env::temp_dir().join(format!("segue-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&dir);
        fs::create_dir_all(&dir).unwrap();
        Self(dir)
    }

    /// With keys of three, a key set, and a manifest that admits v1 and v2.
    fn with_manifest(name: &str) -> Self {
        let folder = Self::new(name);
        folder.with_keys();
        folder.json(
            &[
                &["sign", "--key", "m.pem"][..],
                &["--admit", &admitted("v1", "active:9000")],
                &["--admit", &admitted("v2", "canary:1000")],
            ]
            .concat(),
        );
        folder
    }

    fn with_keys(&self) {
        for key in ["root.pem", "m.pem", "w.pem"] {
            self.json(&["keygen", key]);
        }
        let first = [
            "rotate",
            "--env",
            "production",
            "--root",
            "root.jwk",
            "--manifest",
            "m.jwk",
            "--worker",
            "w.jwk",
            "--sign",
            "root.pem",
        ];
        assert_eq!(self.json(&first)["complete"], true);
    }

    fn run(&self, args: &[&str]) -> Output {
        Command::new(SEGUE)
            .arg("membership")
            .args(args)
            .current_dir(&self.0)
            .env("SEGUE_HOME", self.0.join("nowhere"))
            .output()
            .unwrap()
    }

    fn json(&self, args: &[&str]) -> Value {
        let output = self.run(&[args, &["--output", "json"]].concat());
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{args:?}: {said}");
        serde_json::from_slice(&output.stdout).unwrap()
    }

    /// What is printed, for people.
    fn text(&self, args: &[&str]) -> String {
        let output = self.run(args);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{args:?}: {said}");
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.0.join(name), text).unwrap();
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.0.join(name))
            .unwrap()
            .trim()
            .to_owned()
    }

    fn token(&self, more: &[&str]) -> String {
        let args = [
            "token",
            "--key",
            "w.pem",
            "--agent",
            "desk",
            "--release",
            "v1",
        ];
        self.text(&[&args[..], &["--manifest", "manifest.jws"], more].concat())
    }

    /// The reason that a file is refused with, or `good`.
    fn check(&self, expected: &str, text: &str, more: &[&str]) {
        self.write("offered", text);
        let args = [&["verify", "offered", "--output", "json"], more].concat();
        let output = self.run(&args);
        let view: Value = serde_json::from_slice(&output.stdout)
            .unwrap_or_else(|_| panic!("{}", String::from_utf8_lossy(&output.stderr)));
        let reason = view["reason"].as_str().unwrap_or("good");
        assert_eq!(reason, expected, "{view}");
        let code = i32::from(expected != "good");
        assert_eq!(output.status.code(), Some(code), "{view}");
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn digest(label: &str) -> String {
    label
        .bytes()
        .next_back()
        .map_or_else(String::new, |last| char::from(last).to_string().repeat(64))
}

fn admitted(label: &str, state: &str) -> String {
    format!("desk:{label}:{}:{state}", digest(label))
}

/// Runs a script with arguments; what it prints, as JSON.
fn script(text: &str, args: &[&Path]) -> Value {
    let output = Command::new(python())
        .arg("-c")
        .arg(text)
        .args(args)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    serde_json::from_slice(&output.stdout).unwrap()
}

/// Verifies every kind of signature with `PyJWT`, each with its typ, its key and its claims.
const READ: &str = r#"
import json, sys, jwt
folder = sys.argv[1]
read = lambda name: open(f"{folder}/{name}").read().strip()
def key(name):
    return jwt.PyJWK(json.loads(read(name)), algorithm="EdDSA")
def header(text, typ, jwk):
    found = jwt.get_unverified_header(text)
    assert found == {"alg": "EdDSA", "typ": typ, "kid": json.loads(read(jwk))["kid"]}, found
worker = read("worker.jwt")
header(worker, "membership+jwt", "w.jwk")
token = jwt.decode(worker, key("w.jwk"), algorithms=["EdDSA"], audience="production",
    issuer="segue", options={"require": ["exp", "iat", "aud", "iss", "jti"], "verify_iat": True})
manifest = read("manifest.jws")
header(manifest, "membership-manifest+jwt", "m.jwk")
manifest = jwt.decode(manifest, key("m.jwk"), algorithms=["EdDSA"], issuer="segue")
signed = json.loads(read("keys.jsonl"))
one = signed["signatures"][0]
text = ".".join([one["protected"], signed["payload"], one["signature"]])
header(text, "membership-keys+jwt", "root.jwk")
keys = jwt.decode(text, key("root.jwk"), algorithms=["EdDSA"], issuer="segue")
assert len(jwt.PyJWKSet.from_dict(keys).keys) == 3
try:
    jwt.decode(worker, key("m.jwk"), algorithms=["EdDSA"], audience="production")
    sys.exit("a signature of another key was taken")
except jwt.InvalidSignatureError:
    pass
print(json.dumps({"token": token, "manifest": manifest, "keys": keys}))
"#;

#[test]
fn pyjwt_verifies_what_we_sign() {
    let folder = Folder::with_manifest("pyjwt-reads");
    folder.write("worker.jwt", &folder.token(&["--worker", "desk-1"]));
    let read = script(READ, &[&folder.0]);
    let token = &read["token"];
    assert_eq!(token["agent"], "desk");
    assert_eq!(token["version"], "v1");
    assert_eq!(token["sub"], "desk-1");
    assert_eq!(token["digest"], digest("v1"));
    assert_eq!(read["manifest"]["ver"], 1);
    assert_eq!(read["manifest"]["admit"][1]["state"], "canary");
    assert_eq!(read["keys"]["threshold"], 1);
}

/// Signs with `PyJWT` and the keys in our files: good ones, and what only looks like it.
const WRITE: &str = r#"
import base64, json, sys, time, jwt
folder, digest = sys.argv[1], "1" * 64
read = lambda name: open(f"{folder}/{name}").read()
kid = lambda name: json.loads(read(name.replace(".pem", ".jwk")))["kid"]
now = int(time.time())
claims = {"iss": "segue", "aud": "production", "agent": "desk", "version": "v1",
    "digest": digest, "iat": now, "exp": now + 3600, "jti": "of-pyjwt"}
def sign(claims, typ, pem="w.pem", name=None):
    headers = {"typ": typ, "kid": kid(name or pem)}
    return jwt.encode(claims, read(pem), algorithm="EdDSA", headers=headers)
token = lambda **changed: sign({**claims, **changed}, "membership+jwt")
manifest = {"iss": "segue", "env": "production", "ver": 9, "iat": now, "exp": now + 600,
    "admit": [{"agent": "desk", "version": "v1", "digest": digest, "state": "active", "weight": 10000}]}
pad = lambda text: text + "=" * (-len(text) % 4)
public = base64.urlsafe_b64decode(pad(json.loads(read("w.jwk"))["x"]))
headers = {"typ": "membership+jwt", "kid": kid("w.pem")}
print(json.dumps({
    "good": token(),
    "unknown claims": token(extra={"a": 1}),
    "manifest": sign(manifest, "membership-manifest+jwt", "m.pem"),
    "typ": sign(claims, "JWT"),
    "none": jwt.encode(claims, None, algorithm="none", headers=headers),
    "mac": jwt.encode(claims, public, algorithm="HS256", headers=headers),
    "list": token(aud=["production"]),
    "elsewhere": token(aud="staging"),
    "ended": token(iat=now - 7200, exp=now - 3600),
    "ahead": token(iat=now + 3600, exp=now + 7200),
    "not begun": token(nbf=now + 3600, exp=now + 7200),
    "stranger": sign(claims, "membership+jwt", "root.pem"),
    "under our name": sign(claims, "membership+jwt", "root.pem", "w.pem"),
    "another release": token(version="v0"),
}))
"#;

#[test]
fn we_verify_what_pyjwt_signs_and_refuse_what_it_forges() {
    let folder = Folder::with_manifest("pyjwt-writes");
    let made = script(WRITE, &[&folder.0]);
    for (name, expected) in [
        ("good", "good"),
        ("unknown claims", "good"),
        ("manifest", "good"),
        ("typ", "type"),
        ("none", "algorithm"),
        ("mac", "algorithm"),
        ("list", "malformed"),
        ("elsewhere", "environment"),
        ("ended", "expired"),
        ("ahead", "from-future"),
        ("not begun", "not-yet-valid"),
        ("stranger", "unknown-key"),
        ("under our name", "signature"),
    ] {
        folder.check(expected, made[name].as_str().unwrap(), &[]);
    }
    let by = &["--manifest", "manifest.jws"];
    folder.check("good", made["good"].as_str().unwrap(), by);
    folder.check(
        "not-admitted",
        made["another release"].as_str().unwrap(),
        by,
    );
}

#[test]
fn keys_are_for_their_owner_and_never_written_over() {
    let folder = Folder::new("keygen");
    let made = folder.json(&["keygen", "a.pem"]);
    let mode = |name: &str| {
        fs::metadata(folder.0.join(name))
            .unwrap()
            .permissions()
            .mode()
    };
    assert_eq!(mode("a.pem") & 0o777, 0o600);
    assert!(
        folder
            .read("a.pem")
            .starts_with("-----BEGIN PRIVATE KEY-----")
    );
    let public: Value = serde_json::from_str(&folder.read("a.jwk")).unwrap();
    assert_eq!(public, made["jwk"]);
    let before = folder.read("a.pem");
    let again = folder.run(&["keygen", "a.pem"]);
    assert_eq!(again.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&again.stderr).contains("hint: "));
    assert_eq!(folder.read("a.pem"), before);
}

#[test]
fn manifests_follow_each_other_and_revoke() {
    let folder = Folder::with_manifest("manifests");
    let first = folder.read("manifest.jws");
    let token = folder.token(&[]);
    let by = &["--manifest", "manifest.jws"];
    folder.check("good", &token, by);
    let renewed = folder.json(&["sign", "--key", "m.pem", "--renew"]);
    assert_eq!(renewed["manifest"]["ver"], 2);
    let show = folder.json(&["show", "manifest.jws"]);
    assert_eq!(show["claims"]["admit"], renewed["manifest"]["admit"]);
    assert_eq!(show["verified"], false);
    assert_ne!(folder.read("manifest.jws"), first);

    let id = folder.json(&["show", "offered"])["claims"]["jti"].clone();
    folder.json(&["revoke", "--token", id.as_str().unwrap(), "--sign", "m.pem"]);
    folder.check("revoked", &token, by);
    let other = folder.token(&[]);
    folder.check("good", &other, by);
    let after = folder.json(&["revoke", "--release", "v1", "--sign", "m.pem"]);
    assert_eq!(after["manifest"]["ver"], 4);
    // The revocation is not forgotten on the way.
    assert_eq!(after["manifest"]["revoked"], json!([{ "jti": id }]));
    folder.check("not-admitted", &other, by);
    // A key for another thing.
    let wrong = folder.run(&["sign", "--key", "w.pem", "--renew"]);
    assert_eq!(wrong.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&wrong.stderr).contains("hint: "));
    assert_eq!(folder.json(&["show", "manifest.jws"])["claims"]["ver"], 4);
}

#[test]
fn a_bound_token_needs_a_proof_and_a_token_becomes_an_address() {
    let folder = Folder::with_manifest("tokens");
    folder.json(&["keygen", "own.pem"]);
    let bound = folder.token(&["--bind", "own.jwk"]);
    folder.check("good", &bound, &["--manifest", "manifest.jws"]);
    let long = folder.run(&[
        "token",
        "--key",
        "w.pem",
        "--agent",
        "desk",
        "--release",
        "v1",
        "--digest",
        &digest("v1"),
        "--bind",
        "own.jwk",
        "--expires-in",
        "1h",
    ]);
    let said = String::from_utf8_lossy(&long.stderr);
    assert!(
        long.status.code() == Some(2) && said.contains("lasts for 1h"),
        "{said}"
    );
    let url = folder.token(&["--url", "ws://127.0.0.1:7080/"]);
    let token = url.strip_prefix("ws://127.0.0.1:7080/w/").unwrap();
    folder.check("good", token, &[]);
}

#[test]
fn keys_are_replaced_by_old_and_new_owners_together() {
    let folder = Folder::with_manifest("rotate");
    let token = folder.token(&[]);
    for key in ["root2.pem", "root3.pem", "w2.pem"] {
        folder.json(&["keygen", key]);
    }
    let draft = folder.json(&[
        "rotate",
        "--root",
        "root2.jwk",
        "--root",
        "root3.jwk",
        "--threshold",
        "2",
        "--worker",
        "w2.jwk",
        "--sign",
        "root.pem",
    ]);
    assert_eq!(draft["complete"], false);
    assert_eq!(folder.json(&["verify", "keys.jsonl"])["says"]["set"], 1);
    let done = folder.json(&["rotate", "--cosign", "--sign", "root3.pem"]);
    assert_eq!(done["complete"], true);
    assert!(!folder.0.join("keys.jsonl.draft").exists());
    assert_eq!(folder.json(&["verify", "keys.jsonl"])["says"]["set"], 2);
    // Both worker keys are good until the old one is revoked.
    folder.check("good", &token, &[]);
    let kid = |name: &str| -> String {
        let jwk: Value = serde_json::from_str(&folder.read(name)).unwrap();
        jwk["kid"].as_str().unwrap().to_owned()
    };
    let old = kid("w.jwk");
    let two = ["--sign", "root2.pem", "--sign", "root3.pem"];
    let revoked = folder.json(&[&["revoke", "--key", &old][..], &two].concat());
    assert!(!revoked["keys"].to_string().contains(&old), "{revoked}");
    folder.check("unknown-key", &token, &[]);
    let sets = folder.json(&["show", "keys.jsonl"])["sets"].clone();
    assert_eq!(sets.as_array().unwrap().len(), 3);
    // Nobody goes back: a chain that lost its end is another one.
    let chain = folder.read("keys.jsonl");
    let lines: Vec<&str> = chain.lines().collect();
    folder.check("key-set-gap", &format!("{}\n{}", lines[0], lines[2]), &[]);
    let alone = folder.run(&[
        "rotate",
        "--remove",
        &kid("root.jwk"),
        "--remove",
        &kid("root2.jwk"),
        "--sign",
        "root3.pem",
    ]);
    let said = String::from_utf8_lossy(&alone.stderr);
    assert!(
        alone.status.code() == Some(2) && said.contains("hint: "),
        "{said}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_manifest_is_made_of_what_runs() {
    let site = Site::open_with(SETTINGS, "").await;
    site.deploy("v1");
    site.deploy("v2");
    for key in ["root.pem", "m.pem", "w.pem"] {
        site.json(&["membership", "keygen", key]);
    }
    site.json(&[
        "membership",
        "rotate",
        "--env",
        "production",
        "--root",
        "root.jwk",
        "--manifest",
        "m.jwk",
        "--worker",
        "w.jwk",
        "--sign",
        "root.pem",
    ]);
    let made = site.json(&["membership", "sign", "--key", "m.pem"]);
    let admit = made["manifest"]["admit"].as_array().unwrap();
    let state = |label: &str| {
        let mut of = admit.iter().filter(|is| is["version"] == label);
        of.next().map(|is| is["state"].as_str().unwrap().to_owned())
    };
    assert_eq!(state("v2").as_deref(), Some("active"), "{made}");
    assert_eq!(state("v1").as_deref(), Some("draining"), "{made}");
    let id = site.release("v2").unwrap()["id"].clone();
    let made = site.json(&[
        "membership",
        "token",
        "--key",
        "w.pem",
        "--agent",
        "desk",
        "--release",
        "v2",
    ]);
    assert_eq!(made["claims"]["digest"], id);
    fs::write(site.dir.join("worker.jwt"), made["token"].as_str().unwrap()).unwrap();
    let good = site.json(&[
        "membership",
        "verify",
        "worker.jwt",
        "--manifest",
        "manifest.jws",
    ]);
    assert_eq!(good["says"]["version"], "v2");
}
