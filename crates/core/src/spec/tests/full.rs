//! What the file with every key comes to.

use super::*;

#[test]
fn every_key_is_read() {
    let spec = good(FULL);
    assert_eq!(
        spec.gateway,
        GatewaySpec {
            listen: "0.0.0.0:8443".parse().unwrap(),
            tls: Some(TlsSpec {
                cert: "cert.pem".to_owned(),
                key: "key.pem".to_owned(),
            }),
            limits: GatewayLimits {
                max_connections: 500,
                max_connections_per_address: 50,
                head_timeout: Millis::from_secs(5),
                body_timeout: Millis::from_secs(60),
                stall_timeout: Millis(250),
            },
        }
    );
    assert_eq!(
        spec.api,
        ApiSpec {
            listen: "10.0.0.1:7071".parse().unwrap(),
            tls: Some(TlsSpec {
                cert: "api.pem".to_owned(),
                key: "api.key".to_owned(),
            }),
            names: strings(&["segue.internal"]),
            rate_limit: 100,
        }
    );
    assert_eq!(
        spec.telemetry.otlp.as_deref(),
        Some("http://127.0.0.1:4318")
    );
    assert_eq!(spec.notify, full_notify());
    let membership = MembershipSpec {
        environment: "production".parse().unwrap(),
        keys: "keys.jsonl".to_owned(),
        manifest: "manifest.jws".to_owned(),
        workers: WorkersNeed::Registered,
    };
    assert_eq!(spec.membership, Some(membership));
    assert_eq!(spec.livekit, Some(full_livekit()));
    assert_eq!(
        agent(&spec, "receptionist"),
        AgentSpec {
            worker: full_worker(),
            parts: PartsSpec {
                prompt: Some("prompt.toml".to_owned()),
                model: Some("gpt-x".to_owned()),
                config: Some("agent.toml".to_owned()),
            },
            components: full_components(),
            ingress: full_ingress(),
            policy: Policy {
                stickiness: Millis::from_secs(90),
                on_rollback: OnRollback::Move,
                straggler_buffer: Millis::from_secs(90),
                standby: Millis(0),
                max_tails: 0,
                stragglers: Stragglers {
                    policy: StragglerPolicy::HandOff,
                    ceiling: Some(Millis::from_secs(7_200)),
                    jitter: Millis::from_secs(60),
                    per_second: 10,
                },
                rescue: Some(Rescue {
                    opening_messages: 3,
                }),
            },
            plan: full_plan(),
        }
    );
}

fn full_livekit() -> LivekitSpec {
    let agent = LivekitAgent {
        name: "desk".to_owned(),
        namespace: "north".to_owned(),
        hold: Millis(250),
        redispatch: false,
        room_metadata: true,
    };
    LivekitSpec {
        url: "wss://x.livekit.cloud".to_owned(),
        ca_file: Some("ca.pem".to_owned()),
        api_key: "APIkey".to_owned(),
        secret_file: "livekit.secret".to_owned(),
        listen: "0.0.0.0:7080".parse().unwrap(),
        admission: LivekitAdmission::Signed {
            environment: "production".parse().unwrap(),
            keys: "keys.jsonl".to_owned(),
            manifest: "manifest.jws".to_owned(),
        },
        agents: [("receptionist".parse().unwrap(), agent)].into(),
    }
}

fn full_worker() -> WorkerSpec {
    let pair = |(name, value): (&str, &str)| (name.to_owned(), value.to_owned());
    WorkerSpec {
        command: strings(&[
            "agent",
            "--port",
            "{port}",
            "--name={release}/{worker}/{agent}",
            "{engine.url}/v1",
        ]),
        env: [
            ("GREETING", "hello"),
            ("JSON", "{\"a\": {\"b\": 1}}"),
            ("PORT", "{port}"),
            ("P", "{prompt} {model} {config}"),
        ]
        .map(pair)
        .into(),
        directory: Some("agent".to_owned()),
        count: 2,
        capacity: 50,
        health_path: Some("/healthz?full=1".to_owned()),
        notify_path: Some("/segue/events".to_owned()),
        version: Some("{release}".to_owned()),
        depends_on: vec!["engine".parse().unwrap()],
        requires: vec!["engine >= 2.0, < 3".parse().unwrap()],
    }
}

fn full_ingress() -> Ingress {
    let rule = |when, release: &str| TargetRule {
        when,
        release: release.to_owned(),
    };
    let beta = |equals: Option<&str>| RuleWhen::Header {
        name: "x-beta".to_owned(),
        equals: equals.map(str::to_owned),
    };
    Ingress {
        hosts: strings(&["calls.example.com", "[::1]"]),
        path: "/voice".to_owned(),
        call_id: vec![
            Source::Header("x-call-id".to_owned()),
            Source::Path("/ws/{}".to_owned()),
            Source::Path("/v/{}/ws".to_owned()),
            Source::Query("id".to_owned()),
            Source::Form("CallSid".to_owned()),
            Source::Cookie("c".to_owned()),
        ],
        cohort: vec![Source::Header("x-tenant".to_owned())],
        caller: vec![Source::Form("From".to_owned())],
        tenant: vec![Source::Query("tenant".to_owned())],
        rules: vec![
            rule(beta(Some("a=b")), "v2"),
            rule(beta(None), "v2"),
            rule(RuleWhen::Caller(strings(&["+15550100", "+15550101"])), "v3"),
            rule(RuleWhen::Tenant(strings(&["acme"])), "v3"),
            rule(RuleWhen::List(strings(&["key"])), "0123456789ab"),
        ],
    }
}

fn full_plan() -> Plan {
    Plan {
        ready_timeout: Millis::from_secs(3_600),
        smoke: Some(Smoke {
            scenario: "hours".to_owned(),
            path: "/call/{call_id}?smoke=1".to_owned(),
            calls: 2,
            timeout: Millis::from_secs(30),
        }),
        steps: vec![
            Step {
                share: Share(50),
                min_calls: 20,
                min_duration: Millis(250),
                pause: false,
            },
            Step {
                share: Share(9_999),
                min_calls: 0,
                min_duration: Millis(0),
                pause: true,
            },
        ],
        limits: Limits {
            drops: Share::NONE,
            errors: Share::ALL,
            min_calls: 1,
        },
        webhooks: vec![
            Webhook {
                name: "change-board".to_owned(),
                to: Outbound {
                    url: "https://board.example.com/ask".to_owned(),
                    secret_file: Some("board.secret".to_owned()),
                    allow: strings(&["127.0.0.1"]),
                },
                timeout: Millis::from_secs(2),
                retries: 0,
            },
            Webhook {
                name: "tests".to_owned(),
                to: Outbound {
                    url: "https://tests.example.com".to_owned(),
                    secret_file: None,
                    allow: Vec::new(),
                },
                timeout: Millis::from_secs(5),
                retries: 3,
            },
        ],
        approval: Some(Approval {
            before: Before::Cutover,
        }),
        hooks: Hooks {
            before_deploy: Some(Hook {
                command: strings(&["./migrate", "expand", "{release}"]),
                timeout: Millis::from_secs(60),
            }),
            after_retire: Some(Hook {
                command: strings(&["./migrate", "contract", "{agent}"]),
                timeout: Millis::from_secs(300),
            }),
        },
        bake: Millis::from_secs(600),
        fast_track: false,
    }
}

fn full_notify() -> Vec<NotifySpec> {
    vec![
        NotifySpec {
            name: "ops".to_owned(),
            to: Outbound {
                url: "https://hooks.example.com/services/T0/B0?x=1".to_owned(),
                secret_file: Some("ops.secret".to_owned()),
                allow: strings(&["127.0.0.1", "10.0.0.0/8", "fd00::/8"]),
            },
            format: NotifyFormat::Slack,
            events: strings(&["landed", "rolled_back"]),
            template: Some("{agent}: {event} {release} by {actor} ({reason})".to_owned()),
        },
        NotifySpec {
            name: "bus".to_owned(),
            to: Outbound {
                url: "http://[::1]:8088".to_owned(),
                secret_file: None,
                allow: Vec::new(),
            },
            format: NotifyFormat::Cdevents,
            events: strings(&["cut_over"]),
            template: None,
        },
    ]
}

fn full_components() -> BTreeMap<ComponentName, ComponentSpec> {
    let engine = ComponentSpec {
        command: strings(&[
            "engine",
            "--port",
            "{port}",
            "--licence",
            "{license-proxy.url}",
        ]),
        env: BTreeMap::from([("NAME".to_owned(), "{agent}-{release}".to_owned())]),
        directory: Some("engine".to_owned()),
        health_path: Some("/ready".to_owned()),
        version: Some("v2.1".to_owned()),
        depends_on: vec!["license-proxy".parse().unwrap()],
        requires: vec!["license-proxy >= 1.2".parse().unwrap()],
    };
    let proxy = ComponentSpec {
        command: strings(&["proxy", "{port}"]),
        version: Some("1.2".to_owned()),
        ..ComponentSpec::default()
    };
    BTreeMap::from([
        ("engine".parse().unwrap(), engine),
        ("license-proxy".parse().unwrap(), proxy),
    ])
}
