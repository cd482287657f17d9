//! An ordinary call on its way to its relay, set up by the relay's own thread.
//!
//! A task of its own is for what may take time. Most calls take none: their head is there at once,
//! their worker accepts at once and says 101 a moment later. A shard sees those through by
//! itself: each socket is registered once and for all, and no other thread is woken. What is not
//! ordinary goes to a task as it is, with all that was read and decided ([`Leaving`]), so waiting,
//! trying again and answering are known in one place only, and so is what is said then.
//!
//! Never waits, and does nothing but a few system calls at each step.

use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;

use rustix::io::Errno;
use rustix::net::sockopt::set_tcp_nodelay;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, connect, recv, send, socket_with,
};
use tokio::time::Instant;

use crate::clock;
use crate::http::Answer;
use crate::http::head::{HEAD_BYTES_MAX, end_of_head};
use crate::http::request::{Request, Wants};
use crate::http::response::Response;
use crate::ledger::{End, Unreached};
use crate::relay::{LiveCall, Side};
use crate::tls::Caller;

use super::call::Asked;
use super::decided::Decided;
use super::facts::find_table;
use super::{Front, Guest};

/// Longest head that a caller is told here, in bytes: it always has room in a new socket.
const ANSWER_BYTES_MAX: usize = 4 * 1024;

/// One that was accepted and is no call yet.
pub(crate) struct Arriving {
    guest: Guest,
    caller: TcpStream,
    phase: Phase,
}

/// How far it is.
enum Phase {
    /// The caller has said this much of its head.
    Head { said: Vec<u8> },
    /// It is counted, and its worker is to accept. `early`: what came behind the caller's head.
    Dialling {
        call: Box<Decided>,
        early: Vec<u8>,
        worker: TcpStream,
    },
    /// The worker has the head and has said this much of its answer.
    Answer {
        call: Box<Decided>,
        early: Vec<u8>,
        worker: TcpStream,
        said: Vec<u8>,
    },
}

/// What becomes of one.
pub(crate) enum Next {
    /// It waits for one of its sockets: see [`Arriving::awaits`].
    Waits(Box<Arriving>),
    /// The call stands. The guest is to be dropped once it is relayed: who gives the calls away
    /// asks the relay once more behind that.
    Stands(Box<LiveCall>, Guest),
    /// It is nothing for a shard.
    Leaves(Leaving),
    /// Nobody is there any more.
    Gone,
}

/// What its worker's socket is watched for. The caller's always is for bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Awaits {
    /// There is none.
    NoWorker,
    Connected,
    Bytes,
}

/// One that a task goes on with, once nobody watches its sockets any more.
pub(crate) struct Leaving {
    guest: Guest,
    caller: TcpStream,
    rest: Rest,
}

/// What is to be done.
enum Rest {
    /// Everything.
    Attend { said: Vec<u8> },
    /// Only to say no.
    Refuse { answer: Answer },
    /// To find a worker that says 101, or to say that there is none.
    Connect {
        call: Box<Decided>,
        asked: Asked,
        early: Vec<u8>,
    },
}

impl Front {
    /// Takes up a caller who was accepted. `None`: it was turned away.
    pub(crate) fn take_up(
        self: &Arc<Self>,
        caller: TcpStream,
        peer: SocketAddr,
    ) -> Option<Box<Arriving>> {
        match self.admit(peer) {
            Ok(guest) => Some(Box::new(Arriving {
                guest,
                caller,
                phase: Phase::Head { said: Vec::new() },
            })),
            Err(reason) => {
                self.turn_away(&caller, peer, reason);
                None
            }
        }
    }
}

impl Arriving {
    pub(crate) fn caller(&self) -> &TcpStream {
        &self.caller
    }

    pub(crate) fn worker(&self) -> Option<&TcpStream> {
        match &self.phase {
            Phase::Head { .. } => None,
            Phase::Dialling { worker, .. } | Phase::Answer { worker, .. } => Some(worker),
        }
    }

    pub(crate) fn awaits(&self) -> Awaits {
        match &self.phase {
            Phase::Head { .. } => Awaits::NoWorker,
            Phase::Dialling { .. } => Awaits::Connected,
            Phase::Answer { .. } => Awaits::Bytes,
        }
    }

    /// Something happened on the socket of this side.
    pub(crate) fn step(self, side: Side, buffer: &mut [u8]) -> Next {
        let Self {
            guest,
            caller,
            phase,
        } = self;
        let callers = Callers { guest, caller };
        match (phase, side) {
            (Phase::Head { said }, _) => callers.head(said, buffer),
            (
                Phase::Dialling {
                    call,
                    early,
                    worker,
                },
                Side::Worker,
            ) => callers.ask(call, early, worker),
            (
                Phase::Answer {
                    call,
                    early,
                    worker,
                    said,
                },
                Side::Worker,
            ) => callers.answer(call, early, worker, said, buffer),
            // Who speaks or leaves ahead of the answer is listened to by a task.
            (phase, Side::Caller) => Next::Leaves(callers.in_phase(phase).leave()),
        }
    }

    /// It takes longer than is ordinary, or nobody sets up calls here any more.
    pub(crate) fn leave(self) -> Leaving {
        let rest = match self.phase {
            Phase::Head { said } => Rest::Attend { said },
            Phase::Dialling {
                call,
                early,
                worker,
            } => Rest::Connect {
                call,
                asked: Asked::Dialled(worker),
                early,
            },
            Phase::Answer {
                call,
                early,
                worker,
                said,
            } => Rest::Connect {
                call,
                asked: Asked::Reached {
                    worker,
                    unsent: Vec::new(),
                    said,
                },
                early,
            },
        };
        Leaving {
            guest: self.guest,
            caller: self.caller,
            rest,
        }
    }
}

/// The caller's side of one, in between two phases.
struct Callers {
    guest: Guest,
    caller: TcpStream,
}

impl Callers {
    fn in_phase(self, phase: Phase) -> Arriving {
        let Self { guest, caller } = self;
        Arriving {
            guest,
            caller,
            phase,
        }
    }

    fn waits(self, phase: Phase) -> Next {
        Next::Waits(Box::new(self.in_phase(phase)))
    }

    fn leaves(self, rest: Rest) -> Next {
        let Self { guest, caller } = self;
        Next::Leaves(Leaving {
            guest,
            caller,
            rest,
        })
    }

    /// Reads on in the caller's head.
    fn head(self, mut said: Vec<u8>, buffer: &mut [u8]) -> Next {
        let length = match recv(&self.caller, &mut *buffer, RecvFlags::empty()) {
            Ok((length @ 1.., _)) => length,
            Err(Errno::AGAIN | Errno::INTR) => return self.waits(Phase::Head { said }),
            // It has had no answer and waits for none.
            Ok(_) | Err(_) => return Next::Gone,
        };
        let read = &buffer[..length];
        let heard = if said.is_empty() {
            read
        } else {
            said.extend_from_slice(read);
            &said
        };
        let end = match end_of_head(heard, 0) {
            Ok(Some(end)) => end,
            Ok(None) if heard.len() < HEAD_BYTES_MAX => {
                let said = heard.to_vec();
                return self.waits(Phase::Head { said });
            }
            Ok(None) | Err(_) => {
                let said = heard.to_vec();
                return self.leaves(Rest::Attend { said });
            }
        };
        let (head, early) = heard.split_at(end);
        match self.guest.take_on(head) {
            Ok(Some(call)) => self.dial(call, early.to_vec()),
            Ok(None) => {
                let said = heard.to_vec();
                self.leaves(Rest::Attend { said })
            }
            Err(answer) => self.leaves(Rest::Refuse { answer }),
        }
    }

    fn dial(self, call: Box<Decided>, early: Vec<u8>) -> Next {
        match dial(call.addr()) {
            Ok(worker) => self.ask(call, early, worker),
            // Whoever tries again finds out whether it is the worker's fault.
            Err(_) => self.leaves(Rest::Connect {
                call,
                asked: Asked::Nobody,
                early,
            }),
        }
    }

    /// Sends the head, if the worker has accepted.
    fn ask(self, call: Box<Decided>, early: Vec<u8>, worker: TcpStream) -> Next {
        let head = call.head();
        let asked = match send(&worker, &head, SendFlags::NOSIGNAL) {
            Err(Errno::AGAIN | Errno::INTR) => {
                return self.waits(Phase::Dialling {
                    call,
                    early,
                    worker,
                });
            }
            Ok(sent) => {
                call.sent();
                if sent == head.len() {
                    let said = Vec::new();
                    return self.waits(Phase::Answer {
                        call,
                        early,
                        worker,
                        said,
                    });
                }
                let unsent = head[sent..].to_vec();
                Asked::Reached {
                    worker,
                    unsent,
                    said: Vec::new(),
                }
            }
            // It accepted and left.
            Err(Errno::PIPE | Errno::CONNRESET) => Asked::Reached {
                worker,
                unsent: head,
                said: Vec::new(),
            },
            Err(_) => Asked::Nobody,
        };
        self.leaves(Rest::Connect { call, asked, early })
    }

    /// Reads on in the worker's answer. Only a good 101 is followed here.
    fn answer(
        self,
        call: Box<Decided>,
        early: Vec<u8>,
        worker: TcpStream,
        mut said: Vec<u8>,
        buffer: &mut [u8],
    ) -> Next {
        match recv(&worker, &mut *buffer, RecvFlags::empty()) {
            Ok((length @ 1.., _)) => said.extend_from_slice(&buffer[..length]),
            Err(Errno::AGAIN | Errno::INTR) => {}
            // A task hears the same.
            Ok(_) | Err(_) => return self.leaves(reached(call, early, worker, said)),
        }
        let end = match end_of_head(&said, 0) {
            Ok(Some(end)) => end,
            Ok(None) if said.len() < HEAD_BYTES_MAX => {
                return self.waits(Phase::Answer {
                    call,
                    early,
                    worker,
                    said,
                });
            }
            Ok(None) | Err(_) => return self.leaves(reached(call, early, worker, said)),
        };
        let good = Response::parse(&said[..end]).ok().filter(|response| {
            response.status == 101 && call.check(response).is_ok() && !call.is_to_end()
        });
        let Some(response) = good else {
            return self.leaves(reached(call, early, worker, said));
        };
        let accepted = call.answer(&response);
        if accepted.len() > ANSWER_BYTES_MAX {
            return self.leaves(reached(call, early, worker, said));
        }
        match send(&self.caller, &accepted, SendFlags::NOSIGNAL) {
            Ok(sent) if sent == accepted.len() => {}
            Err(Errno::AGAIN | Errno::INTR) => {
                return self.leaves(reached(call, early, worker, said));
            }
            Ok(_) | Err(_) => {
                let why = Unreached::CallerLeft;
                call.ticket.finish(End::Unreached(why), clock::now());
                return Next::Gone;
            }
        }
        let (at, addr) = (call.ticket.worker(), call.addr());
        self.guest.front.health.answered(at, addr, true);
        let Self { guest, caller } = self;
        let (ticket, lifeline) = call.stands(&response);
        let behind = said.split_off(end);
        match LiveCall::of_ready(ticket, caller, worker, early, behind) {
            Ok(live) => Next::Stands(Box::new(live.with_lifeline(lifeline)), guest),
            Err(error) => {
                tracing::error!(%error, "a call could not be relayed");
                Next::Gone
            }
        }
    }
}

fn reached(call: Box<Decided>, early: Vec<u8>, worker: TcpStream, said: Vec<u8>) -> Rest {
    let asked = Asked::Reached {
        worker,
        unsent: Vec::new(),
        said,
    };
    Rest::Connect { call, asked, early }
}

impl Guest {
    /// Decides and counts an ordinary call. `None`: it is none.
    fn take_on(&self, head: &[u8]) -> Result<Option<Box<Decided>>, Answer> {
        let request = Request::parse(head)?;
        let Wants::WebSocket { key } = request.wants.clone() else {
            return Ok(None);
        };
        let table = find_table(&self.front.ledger, &request)?;
        self.decide(table, request, key, "http").map(Some)
    }
}

impl Leaving {
    /// The sockets that may still be watched: the caller's, and the worker's.
    pub(crate) fn sockets(&self) -> (&TcpStream, Option<&TcpStream>) {
        let worker = match &self.rest {
            Rest::Connect {
                asked: Asked::Dialled(worker) | Asked::Reached { worker, .. },
                ..
            } => Some(worker),
            _ => None,
        };
        (&self.caller, worker)
    }

    /// A task goes on with it. Nobody may watch its sockets any more.
    pub(crate) fn go(self) {
        let Self {
            guest,
            caller,
            rest,
        } = self;
        let front = Arc::clone(&guest.front);
        let _inside = front.runtime.enter();
        let mut caller = match tokio::net::TcpStream::from_std(caller) {
            Ok(caller) => Caller::Plain(caller),
            Err(error) => {
                tracing::warn!(peer = %guest.peer, %error, "a caller cannot be heard");
                return;
            }
        };
        #[cfg(test)]
        front.left.send_modify(|left| *left += 1);
        tokio::spawn(async move {
            match rest {
                Rest::Attend { said } => {
                    let deadline = Instant::now() + guest.front.limits.head_timeout;
                    guest.attend(caller, said, deadline).await;
                }
                Rest::Refuse { answer } => guest.conclude(caller, Err(Some(answer))).await,
                Rest::Connect { call, asked, early } => {
                    let outcome = guest.connect(&mut caller, call, asked, early).await;
                    guest.conclude(caller, outcome).await;
                }
            }
        });
    }
}

/// Begins to connect to a worker, and does not wait.
fn dial(addr: SocketAddr) -> Result<TcpStream, Errno> {
    let family = match addr {
        SocketAddr::V4(_) => AddressFamily::INET,
        SocketAddr::V6(_) => AddressFamily::INET6,
    };
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let worker = socket_with(family, SocketType::STREAM, flags, None)?;
    // Small frames would wait for acknowledgements without it.
    let _ = set_tcp_nodelay(&worker, true);
    match connect(&worker, &addr) {
        Ok(()) | Err(Errno::INPROGRESS) => Ok(worker.into()),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests;
