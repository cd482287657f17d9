//! Somebody who is called: a server that writes down what it hears and answers as it is told.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use segue_core::spec::Outbound;
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

/// One request.
#[derive(Debug, Clone)]
pub(crate) struct Heard {
    pub(crate) path: String,
    /// By lower-case name.
    pub(crate) headers: BTreeMap<String, String>,
    pub(crate) body: String,
}

impl Heard {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap()
    }
}

/// What is answered to the n-th request, counting from zero: a status and a body. `None`: nothing,
/// and the line is held.
type Answers = dyn Fn(usize, &Heard) -> Option<(u16, String)> + Send + Sync;

pub(crate) struct Receiver {
    pub(crate) addr: SocketAddr,
    heard: Arc<Mutex<Vec<Heard>>>,
    _tasks: JoinSet<()>,
}

impl Receiver {
    pub(crate) async fn start(
        answers: impl Fn(usize, &Heard) -> Option<(u16, String)> + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let heard = Arc::new(Mutex::new(Vec::new()));
        let answers: Arc<Answers> = Arc::new(answers);
        let ours = Arc::clone(&heard);
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut lines = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                lines.spawn(answer(stream, Arc::clone(&ours), Arc::clone(&answers)));
            }
        });
        Self {
            addr,
            heard,
            _tasks: tasks,
        }
    }

    /// One that answers 200 and `body` to everything.
    pub(crate) async fn saying(body: &str) -> Self {
        let body = body.to_owned();
        Self::start(move |_, _| Some((200, body.clone()))).await
    }

    pub(crate) fn heard(&self) -> Vec<Heard> {
        self.heard.lock().unwrap().clone()
    }

    /// How to reach it.
    pub(crate) fn to(&self, path: &str) -> Outbound {
        Outbound {
            url: format!("http://{}{path}", self.addr),
            secret_file: None,
            allow: vec!["127.0.0.1".to_owned()],
        }
    }
}

async fn answer(mut stream: TcpStream, heard: Arc<Mutex<Vec<Heard>>>, answers: Arc<Answers>) {
    let mut text = Vec::new();
    while !is_whole(&text) {
        match stream.read_buf(&mut text).await {
            Ok(0) | Err(_) => return,
            Ok(_) => {}
        }
    }
    let text = String::from_utf8(text).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    let mut lines = head.lines();
    let path = lines.next().unwrap().split(' ').nth(1).unwrap().to_owned();
    let header = |line: &str| {
        let (name, value) = line.split_once(": ").unwrap();
        (name.to_ascii_lowercase(), value.to_owned())
    };
    let one = Heard {
        path,
        headers: lines.map(header).collect(),
        body: body.to_owned(),
    };
    let number = {
        let mut all = heard.lock().unwrap();
        all.push(one.clone());
        all.len() - 1
    };
    let Some((status, body)) = answers(number, &one) else {
        std::future::pending::<()>().await;
        return;
    };
    let length = body.len();
    let text = format!(
        "HTTP/1.1 {status} Said\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}"
    );
    let _ = stream.write_all(text.as_bytes()).await;
    let _ = stream.shutdown().await;
}

/// Whether the head and as much of a body as it announces are there.
pub(crate) fn is_whole(text: &[u8]) -> bool {
    let text = String::from_utf8_lossy(text);
    let Some((head, body)) = text.split_once("\r\n\r\n") else {
        return false;
    };
    let length = head.lines().find_map(|line| {
        let line = line.to_ascii_lowercase();
        line.strip_prefix("content-length: ")?.parse::<usize>().ok()
    });
    body.len() >= length.unwrap_or(0)
}
