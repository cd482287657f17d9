//! Whether the configured listeners can listen.

use std::io::ErrorKind;
use std::net::{SocketAddr, TcpListener};

use super::{Findings, Patient};

/// What names the running listener of a setting.
struct Listener {
    what: &'static str,
    key: &'static str,
    wanted: SocketAddr,
    /// Where ours listens now, if it does.
    ours: Option<SocketAddr>,
}

pub(super) fn check(patient: &Patient) -> Findings {
    let mut found = Findings::of("ports");
    let Some(spec) = &patient.spec else {
        return found;
    };
    let running = patient.status.is_some();
    let ours = |addr: Option<String>| addr.filter(|_| running)?.parse().ok();
    let listeners = [
        Listener {
            what: "calls",
            key: "[gateway] listen",
            wanted: spec.gateway.listen,
            ours: ours(patient.home.gateway_addr()),
        },
        Listener {
            what: "the admin API",
            key: "[api] listen",
            wanted: spec.api.listen,
            ours: ours(patient.home.api_addr()),
        },
    ];
    for listener in &listeners {
        look(listener, &mut found);
    }
    found
}

fn look(listener: &Listener, found: &mut Findings) {
    let Listener {
        what,
        key,
        wanted,
        ours,
    } = listener;
    if ours.is_some_and(|ours| ours == *wanted || (wanted.port() == 0 && ours.ip() == wanted.ip()))
    {
        let is = ours.map_or_else(String::new, |ours| ours.to_string());
        found.ok(format!("{what}: this Segue listens on {is}"));
        return;
    }
    match TcpListener::bind(wanted) {
        Ok(_) => found.ok(format!("{what}: {wanted} is free")),
        Err(error) => match error.kind() {
            ErrorKind::AddrInUse => found.fail(
                format!("{what}: another program listens on {wanted}"),
                format!(
                    "end it (`ss -ltnp 'sport = :{}'` names it), or write another {key}",
                    wanted.port()
                ),
            ),
            ErrorKind::PermissionDenied => found.fail(
                format!("{what}: this user may not listen on port {}", wanted.port()),
                format!(
                    "write a {key} above 1023, or add AmbientCapabilities=CAP_NET_BIND_SERVICE \
                     to the systemd unit"
                ),
            ),
            ErrorKind::AddrNotAvailable => found.fail(
                format!("{what}: {} is no address of this machine", wanted.ip()),
                format!("write one that `ip address` shows as {key}"),
            ),
            _ => found.fail(
                format!("{what}: {wanted} cannot be listened on: {error}"),
                format!("write another {key}"),
            ),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::super::Level;
    use super::*;

    fn level(wanted: SocketAddr, ours: Option<SocketAddr>) -> Level {
        let mut found = Findings::of("ports");
        let listener = Listener {
            what: "calls",
            key: "[gateway] listen",
            wanted,
            ours,
        };
        look(&listener, &mut found);
        found.all[0].level
    }

    #[test]
    fn a_port_is_free_ours_or_taken() {
        let other = TcpListener::bind("127.0.0.1:0").unwrap();
        let taken = other.local_addr().unwrap();
        assert_eq!(level(taken, None), Level::Fail);
        assert_eq!(level(taken, Some(taken)), Level::Ok, "it is ours");
        let any = "127.0.0.1:0".parse().unwrap();
        assert_eq!(level(any, Some(taken)), Level::Ok, "any port will do");
        assert_eq!(level(any, None), Level::Ok);
        assert_eq!(level("192.0.2.1:8080".parse().unwrap(), None), Level::Fail);
    }
}
