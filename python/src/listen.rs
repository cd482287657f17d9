//! Python that is called from threads of ours: only while there is an interpreter, and never with a
//! lock held.

use pyo3::prelude::*;
use segue_worker::{AuditEvent, Event, SinkError};

/// A listener. What it raises is its own affair, and is shown as such.
pub(crate) fn listener(callback: Py<PyAny>) -> impl Fn(&Event) + Send + Sync + 'static {
    move |event| {
        let calls: Vec<String> = event.calls().iter().map(ToString::to_string).collect();
        let reason = match event {
            Event::Draining { reason } | Event::Barred { reason } => Some(reason.as_str()),
            _ => None,
        };
        Python::try_attach(|py| {
            if let Err(error) = callback.call1(py, (event.word(), calls, reason)) {
                error.write_unraisable(py, Some(callback.bind(py)));
            }
        });
    }
}

/// A sink. One that raises has not taken the event.
pub(crate) fn sink(
    callback: Py<PyAny>,
) -> impl Fn(&AuditEvent) -> Result<(), SinkError> + Send + Sync + 'static {
    move |event| {
        let event = serde_json::to_string(event)?;
        let taken = Python::try_attach(|py| match callback.call1(py, (event,)) {
            Ok(_) => Ok(()),
            Err(error) => Err(error.to_string().into()),
        });
        taken.unwrap_or_else(|| Err("the interpreter has ended".into()))
    }
}
