//! A pool and a call. Whatever may take long leaves the interpreter to others.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use pyo3::exceptions::{PyOSError, PyValueError};
use pyo3::prelude::*;
use segue_worker::{
    AgentPool, Call, Environment, OnStraggler, Outcome, Refused as NotIn, Segue, SegueError,
    Verdict,
};
use serde_json::{Map, Value};

use crate::listen::{listener, sink};
use crate::{Barred, Draining, Refused, SegueUnreachable, StaleState};

/// How long a thread waits before it looks after signals. Python runs their handlers only in its main
/// thread and never in here, and the one that begins the drain may be among them.
const SIGNALS_EVERY: Duration = Duration::from_millis(100);

/// A worker of a release.
#[pyclass(module = "segue._native", frozen)]
pub(crate) struct NativePool(AgentPool);

/// A call that is here until it exits.
#[pyclass(module = "segue._native")]
pub(crate) struct NativeCall(Option<Call>);

#[pymethods]
impl NativePool {
    #[new]
    #[pyo3(signature = (version, drain_timeout, on_straggler, sink_callback, agent, worker, api_url, token_file, membership_token_file, membership_key_file))]
    #[expect(clippy::too_many_arguments, reason = "one caller, in this package")]
    fn new(
        version: Option<String>,
        drain_timeout: Option<f64>,
        on_straggler: &str,
        sink_callback: Option<Py<PyAny>>,
        agent: Option<String>,
        worker: Option<String>,
        api_url: Option<String>,
        token_file: Option<PathBuf>,
        membership_token_file: Option<PathBuf>,
        membership_key_file: Option<PathBuf>,
    ) -> PyResult<Self> {
        let mut builder = AgentPool::builder(version.clone().unwrap_or_default());
        if let Some(timeout) = drain_timeout {
            builder = builder.drain_timeout(seconds(timeout)?);
        }
        builder = builder.on_straggler(match on_straggler {
            "wait" => OnStraggler::Wait,
            "end" => OnStraggler::End,
            other => {
                let why = format!("on_straggler is \"wait\" or \"end\", not {other:?}");
                return Err(PyValueError::new_err(why));
            }
        });
        if let Some(callback) = sink_callback {
            builder = builder.audit_sink(sink(callback));
        }
        // One that nobody is shown would bar nobody, without a word.
        if api_url.is_some() || membership_token_file.is_some() {
            let environment = Environment {
                agent,
                worker,
                release: version,
                api_url,
                token_file,
                membership_token_file,
                membership_key_file,
            };
            let segue = Segue::new(&environment);
            builder = builder.segue(segue.map_err(bad)?);
        }
        Ok(Self(builder.build()))
    }

    fn start(&self) -> PyResult<()> {
        let started = self.0.start();
        started.map_err(|error| PyOSError::new_err(error.to_string()))
    }

    fn close(&self, py: Python<'_>, timeout: f64) -> PyResult<bool> {
        let timeout = seconds(timeout)?;
        Ok(py.detach(|| self.0.close(Some(timeout))))
    }

    fn flush(&self, py: Python<'_>, timeout: f64) -> PyResult<bool> {
        let timeout = seconds(timeout)?;
        Ok(py.detach(|| self.0.flush(Some(timeout))))
    }

    fn enter(&self, call: &str, assigned: bool) -> PyResult<NativeCall> {
        let entered = if assigned {
            self.0.enter_assigned(call)
        } else {
            self.0.enter(call)
        };
        entered.map(|call| NativeCall(Some(call))).map_err(refused)
    }

    fn takes_calls(&self) -> bool {
        self.0.takes_calls()
    }

    fn begin_drain(&self, reason: &str) {
        self.0.begin_drain(reason);
    }

    #[pyo3(signature = (timeout))]
    fn wait_drained(&self, py: Python<'_>, timeout: Option<f64>) -> PyResult<bool> {
        let timeout = timeout.map(seconds).transpose()?;
        let began = Instant::now();
        loop {
            let left = timeout.map(|timeout| timeout.saturating_sub(began.elapsed()));
            let slice = left.map_or(SIGNALS_EVERY, |left| left.min(SIGNALS_EVERY));
            if py.detach(|| self.0.wait_drained(Some(slice))) {
                return Ok(true);
            }
            py.check_signals()?;
            if left == Some(slice) {
                return Ok(false);
            }
        }
    }

    fn on_event(&self, callback: Py<PyAny>) {
        self.0.on_event(listener(callback));
    }

    fn notified(&self, body: &[u8]) -> bool {
        self.0.notified(body)
    }

    #[pyo3(signature = (call, verdict, reason, data))]
    fn report(&self, call: &str, verdict: &str, reason: Option<&str>, data: &str) -> PyResult<()> {
        let verdict = match verdict {
            "success" => Verdict::Success,
            "failure" => Verdict::Failure,
            "abandoned" => Verdict::Abandoned,
            other => {
                let why = format!(
                    "an outcome is \"success\", \"failure\" or \"abandoned\", not {other:?}"
                );
                return Err(PyValueError::new_err(why));
            }
        };
        let mut outcome = Outcome::new(verdict).with(object(data)?).map_err(bad)?;
        if let Some(reason) = reason {
            outcome = outcome.because(reason).map_err(bad)?;
        }
        self.0.report(call, outcome).map_err(refused)
    }

    #[pyo3(signature = (event, actor, target, result, version, fields))]
    fn audit(
        &self,
        event: &str,
        actor: &str,
        target: &str,
        result: &str,
        version: Option<&str>,
        fields: &str,
    ) -> PyResult<String> {
        let fields = object(fields)?;
        let event = self.0.audit(event, actor, target, result, version, fields);
        text(&event)
    }

    fn snapshot(&self) -> PyResult<String> {
        text(&self.0.runtime_snapshot())
    }

    fn has_segue(&self) -> bool {
        self.0.segue().is_some()
    }

    fn get_state(&self, py: Python<'_>, call: &str) -> PyResult<Option<(u64, String)>> {
        let call = call.parse().map_err(bad)?;
        let segue = self.segue()?;
        match py.detach(|| segue.state(&call)).map_err(failed)? {
            Some(state) => Ok(Some((state.version, text(&state.state)?))),
            None => Ok(None),
        }
    }

    #[pyo3(signature = (call, state, after, merge))]
    fn write_state(
        &self,
        py: Python<'_>,
        call: &str,
        state: &str,
        after: Option<u64>,
        merge: bool,
    ) -> PyResult<u64> {
        let (call, state) = (call.parse().map_err(bad)?, object(state)?);
        let segue = self.segue()?;
        let written = py.detach(|| {
            if merge {
                segue.patch_state(&call, &state, after)
            } else {
                segue.put_state(&call, &state, after)
            }
        });
        written.map_err(failed)
    }

    fn remove_state(&self, py: Python<'_>, call: &str) -> PyResult<()> {
        let call = call.parse().map_err(bad)?;
        let segue = self.segue()?;
        py.detach(|| segue.remove_state(&call)).map_err(failed)
    }
}

impl NativePool {
    fn segue(&self) -> PyResult<&Segue> {
        let none = || {
            let why =
                "no Segue is configured\nhint: set SEGUE_API_URL, SEGUE_AGENT and SEGUE_TOKEN_FILE";
            SegueUnreachable::new_err(why)
        };
        self.0.segue().ok_or_else(none)
    }
}

#[pymethods]
impl NativeCall {
    /// The end of the call, or of one connection of it; again, it changes nothing.
    fn exit(&mut self) {
        self.0 = None;
    }
}

fn seconds(seconds: f64) -> PyResult<Duration> {
    Duration::try_from_secs_f64(seconds).map_err(bad)
}

fn bad(error: impl std::fmt::Display) -> PyErr {
    PyValueError::new_err(error.to_string())
}

fn refused(error: NotIn) -> PyErr {
    match error {
        NotIn::Draining => Draining::new_err(error.to_string()),
        NotIn::Barred { .. } => Barred::new_err(error.to_string()),
        NotIn::BadCall(error) => bad(error),
        error => Refused::new_err(error.to_string()),
    }
}

fn failed(error: SegueError) -> PyErr {
    match error {
        SegueError::Stale => StaleState::new_err(error.to_string()),
        error => SegueUnreachable::new_err(error.to_string()),
    }
}

fn object(text: &str) -> PyResult<Map<String, Value>> {
    serde_json::from_str(text).map_err(bad)
}

fn text(value: &impl serde::Serialize) -> PyResult<String> {
    serde_json::to_string(value).map_err(bad)
}
