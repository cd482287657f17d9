//! What must not be reached, and how what may be is.

use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;

use super::*;

/// Answers every connection with the same bytes, and counts.
struct Listener {
    addr: SocketAddr,
    heard: Arc<std::sync::Mutex<Vec<String>>>,
}

impl Listener {
    fn start(answer: &'static str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        let heard = Arc::new(std::sync::Mutex::new(Vec::new()));
        let ours = Arc::clone(&heard);
        thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let mut text = Vec::new();
                let mut byte = [0; 1];
                while stream.read_exact(&mut byte).is_ok() {
                    text.push(byte[0]);
                    if is_whole(&text) {
                        break;
                    }
                }
                ours.lock()
                    .unwrap()
                    .push(String::from_utf8_lossy(&text).into_owned());
                let _ = stream.write_all(answer.as_bytes());
            }
        });
        Self { addr, heard }
    }

    fn heard(&self) -> Vec<String> {
        self.heard.lock().unwrap().clone()
    }
}

fn is_whole(text: &[u8]) -> bool {
    let text = String::from_utf8_lossy(text);
    let Some((head, body)) = text.split_once("\r\n\r\n") else {
        return false;
    };
    let length = head.lines().find_map(|line| {
        line.to_ascii_lowercase()
            .strip_prefix("content-length: ")?
            .parse()
            .ok()
    });
    body.len() >= length.unwrap_or(0)
}

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok";

const OPS: Line<'_> = Line::Notification("ops");

fn message() -> Message {
    Message::json("d-1".to_owned(), &serde_json::json!({ "a": 1 }))
}

fn to(url: &str, allow: &[&str]) -> Outbound {
    Outbound {
        url: url.to_owned(),
        secret_file: None,
        allow: allow.iter().map(|&text| text.to_owned()).collect(),
    }
}

/// Names that the tests know; everything else is not found, whatever the machine's DNS says.
fn client() -> Client {
    Client::with_resolver(Path::new("/"), |host, port| {
        let host = host.to_ascii_lowercase();
        let ips: &[&str] = match host.trim_end_matches('.') {
            "localhost" => &["::1", "127.0.0.1"],
            "rebind.example" | "localtest.me" => &["127.0.0.1"],
            "metadata.google.internal" => &["169.254.169.254"],
            "both.example" => &["10.0.0.7", "192.168.3.4"],
            "mapped.example" => &["::ffff:127.0.0.1"],
            _ => return Err(io::Error::other("no such name")),
        };
        let addr = |ip: &&str| SocketAddr::new(ip.parse().unwrap(), port);
        Ok(ips.iter().map(addr).collect())
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_that_is_not_public_is_reached() {
    let listener = Listener::start(OK);
    let port = listener.addr.port();
    let hostile = [
        "http://127.0.0.1:PORT/",
        "http://127.0.0.1.:PORT/",
        "http://127.1:PORT/",
        "http://127.0.1:PORT/",
        "http://2130706433:PORT/",
        "http://2130706433.:PORT/",
        "http://0x7f000001:PORT/",
        "http://0x7f.0.0.1:PORT/",
        "http://0X7F.1:PORT/",
        "http://0177.0.0.1:PORT/",
        "http://017700000001:PORT/",
        "http://127.0.0.0x1:PORT/",
        "http://0:PORT/",
        "http://0.0.0.0:PORT/",
        "http://00000000:PORT/",
        "http://localhost:PORT/",
        "http://LOCALHOST.:PORT/",
        "http://rebind.example:PORT/",
        "http://rebind.example.:PORT/",
        "http://localtest.me:PORT/",
        "http://mapped.example:PORT/",
        "http://both.example:PORT/",
        "http://[::1]:PORT/",
        "http://[::]:PORT/",
        "http://[::ffff:127.0.0.1]:PORT/",
        "http://[::ffff:7f00:1]:PORT/",
        "http://[::127.0.0.1]:PORT/",
        "http://[64:ff9b::7f00:1]:PORT/",
        "http://[2002:7f00:1::]:PORT/",
        "http://[fe80::1%25lo]:PORT/",
        "http://[fe80::1]:PORT/",
        "http://[fd00:ec2::254]:PORT/",
        "http://169.254.169.254/latest/meta-data/",
        "http://metadata.google.internal/computeMetadata/v1/",
        "http://100.100.100.200/",
        "http://168.63.129.16/",
        "http://10.0.0.1:PORT/",
        "http://192.168.1.1:PORT/",
        "http://224.0.0.1:PORT/",
        "http://255.255.255.255:PORT/",
        "http://public.example@127.0.0.1:PORT/",
        "http://user:hush@public.example:PORT/",
        "http://public.example#@127.0.0.1:PORT/",
        "http://public.example\\@127.0.0.1:PORT/",
        "http://127.0.0.1%00.public.example:PORT/",
        "http://127。0。0。1:PORT/",
        "http://①②⑦.⓪.⓪.①:PORT/",
        "http://127.0.0.1:0/",
        "http://127.0.0.1:PORT:80/",
        "http://..:PORT/",
        "http://:PORT/",
        "http:///path",
        "//127.0.0.1:PORT/",
        "127.0.0.1:PORT",
        "file:///etc/passwd",
        "gopher://127.0.0.1:PORT/",
        "ftp://127.0.0.1:PORT/",
        "unix:/run/segue.sock",
        "",
    ];
    let client = client();
    for url in hostile {
        let url = url.replace("PORT", &port.to_string());
        let made = client.post(OPS, &to(&url, &[]), message(), TOTAL_MAX).await;
        let failure = made.expect_err(&url);
        // A name that is not ours may be resolved by nobody; everything else is refused.
        let unknown = url.contains("public.example#");
        assert!(
            matches!(failure, Failure::Refused(_)) || unknown,
            "{url}: {failure:?}"
        );
        assert!(!failure.is_retryable() || unknown, "{url}");
        let told = failure.to_string();
        assert!(!told.contains("hush") && !told.contains("latest"), "{told}");
    }
    assert_eq!(listener.heard(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_operator_allows_is_called_signed_and_only_there() {
    let listener = Listener::start(OK);
    let dir = std::env::temp_dir().join(format!("segue-outbound-{}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    std::fs::write(dir.join("s"), "hush\n").unwrap();
    let client = Client::with_resolver(&dir, |_, port| {
        let all = ["::1", "127.0.0.1"].map(|ip| SocketAddr::new(ip.parse().unwrap(), port));
        Ok(all.to_vec())
    });
    let url = format!("http://hook.example:{}/in?token=x", listener.addr.port());
    let mut to = to(&url, &["127.0.0.1"]);
    to.secret_file = Some("s".to_owned());
    let answer = client.post(OPS, &to, message(), TOTAL_MAX).await.unwrap();
    assert_eq!(
        (answer.status, answer.body.as_slice()),
        (200, b"ok".as_slice())
    );
    let heard = listener.heard();
    let head = heard[0].to_ascii_lowercase();
    assert!(head.starts_with("post /in?token=x http/1.1\r\n"), "{head}");
    let host = format!("host: hook.example:{}\r\n", listener.addr.port());
    assert!(head.contains(&host), "{head}");
    assert!(head.contains("x-segue-delivery: d-1\r\n"), "{head}");
    let signature = head
        .lines()
        .find_map(|line| line.strip_prefix("x-segue-signature: "))
        .unwrap();
    let seconds = signature[2..].split(',').next().unwrap().parse().unwrap();
    assert_eq!(signature, signature::header(b"hush", seconds, b"{\"a\":1}"));
    to.secret_file = Some("missing".to_owned());
    let failure = client
        .post(OPS, &to, message(), TOTAL_MAX)
        .await
        .unwrap_err();
    assert!(matches!(failure, Failure::Secret(_)), "{failure}");
    assert_eq!(listener.heard().len(), 1, "nothing goes out unsigned");
    std::fs::remove_dir_all(&dir).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redirect_is_an_answer_and_is_not_followed() {
    let inner = Listener::start(OK);
    let text = format!(
        "HTTP/1.1 307 Temporary Redirect\r\nLocation: http://{}/\r\nContent-Length: 0\r\n\
         Connection: close\r\n\r\n",
        inner.addr
    );
    let outer = Listener::start(text.leak());
    let url = format!("http://{}/", outer.addr);
    let to = to(&url, &["127.0.0.1"]);
    let made = client().post(OPS, &to, message(), TOTAL_MAX).await;
    assert_eq!(made.unwrap().status, 307);
    assert_eq!((outer.heard().len(), inner.heard().len()), (1, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_name_is_resolved_once() {
    static ASKED: AtomicU32 = AtomicU32::new(0);
    let listener = Listener::start(OK);
    let client = Client::with_resolver(Path::new("/"), |_, port| {
        // The second answer would be one that is not allowed.
        let ip = match ASKED.fetch_add(1, Ordering::Relaxed) {
            0 => "127.0.0.1",
            _ => "10.0.0.1",
        };
        Ok(vec![SocketAddr::new(ip.parse().unwrap(), port)])
    });
    let url = format!("http://rebind.example:{}/", listener.addr.port());
    let to = to(&url, &["127.0.0.1"]);
    let made = client.post(OPS, &to, message(), TOTAL_MAX).await;
    assert_eq!(made.unwrap().status, 200);
    assert_eq!(ASKED.load(Ordering::Relaxed), 1);
    let made = client.post(OPS, &to, message(), TOTAL_MAX).await;
    assert!(matches!(made, Err(Failure::Refused(_))));
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_are_short_and_in_time() {
    let long = format!(
        "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n{}",
        "x".repeat(70_000)
    );
    let listener = Listener::start(long.leak());
    let url = format!("http://{}/", listener.addr);
    let allowed = to(&url, &["127.0.0.1"]);
    let made = client().post(OPS, &allowed, message(), TOTAL_MAX).await;
    assert_eq!(made, Err(Failure::TooLong));

    let mute = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/", mute.local_addr().unwrap());
    let limit = Duration::from_millis(200);
    let made = client()
        .post(OPS, &to(&url, &["127.0.0.1"]), message(), limit)
        .await;
    assert_eq!(made, Err(Failure::Late(limit)));
    assert_eq!(
        made.unwrap_err().to_string(),
        "it did not answer within 200ms"
    );

    // A resolver that hangs is not waited for either.
    let (_never, answer) = std::sync::mpsc::channel::<()>();
    let answer = std::sync::Mutex::new(answer);
    let stuck = Client::with_resolver(Path::new("/"), move |_, _| {
        let _ = answer.lock().unwrap().recv_timeout(Duration::from_secs(3));
        Err(io::Error::other("late"))
    });
    let made = stuck
        .post(OPS, &to("http://a.example/", &[]), message(), limit)
        .await;
    assert_eq!(made, Err(Failure::Late(limit)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_is_told_where_it_is() {
    let listener = Listener::start(OK);
    let client = client();
    let told = client.tell(listener.addr, "/segue/events", message()).await;
    assert_eq!(told.unwrap().status, 200);
    assert!(listener.heard()[0].starts_with("POST /segue/events HTTP/1.1"));
}

#[tokio::test(flavor = "multi_thread")]
async fn receivers_that_hang_make_no_gate_late() {
    // Lines are taken by the system, and nobody ever answers.
    let hangs = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/", hangs.local_addr().unwrap());
    let far = Duration::from_mins(2);
    let client = client();
    let mut hanging = tokio::task::JoinSet::new();
    for number in 0..NOTIFICATIONS_AT_ONCE_MAX * 2 {
        let (client, to) = (client.clone(), to(&url, &["127.0.0.1"]));
        hanging.spawn(async move {
            let name = format!("ops-{number}");
            let line = Line::Notification(&name);
            client.post(line, &to, message(), far).await
        });
    }
    // One webhook that hangs, too, as often as it likes.
    for _ in 0..OF_ONE_AT_ONCE_MAX * 2 {
        let (client, to) = (client.clone(), to(&url, &["127.0.0.1"]));
        hanging.spawn(async move {
            let (agent, webhook) = ("desk", "slow");
            let line = Line::Gate { agent, webhook };
            client.post(line, &to, message(), far).await
        });
    }
    while client.0.notifications.free() > 0 {
        tokio::task::yield_now().await;
    }
    let board = Listener::start(OK);
    let url = format!("http://{}/", board.addr);
    let (agent, webhook) = ("desk", "board");
    let line = Line::Gate { agent, webhook };
    let to = to(&url, &["127.0.0.1"]);
    let answer = client.post(line, &to, message(), far);
    assert_eq!(answer.await.unwrap().status, 200);
    let told = client.tell(board.addr, "/segue/events", message()).await;
    assert_eq!(told.unwrap().status, 200);
    assert!(
        hanging.try_join_next().is_none(),
        "all the others still wait"
    );
    // Lines that nobody took are cut off with it.
    drop(hangs);
    hanging.abort_all();
}
