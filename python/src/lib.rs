//! The worker SDK as Python sees it, below its own classes: names and numbers in, JSON out. What is
//! asyncio about it, and what is convenient, is in Python (`lib/segue`).

mod listen;
mod membership;
mod pool;

use pyo3::exceptions::{PyRuntimeError, PyValueError};
use pyo3::prelude::*;

pyo3::create_exception!(
    segue,
    Refused,
    PyRuntimeError,
    "The call may not come in here; another worker takes it."
);
pyo3::create_exception!(segue, Draining, Refused, "This worker drains.");
pyo3::create_exception!(
    segue,
    Barred,
    Refused,
    "The membership of this worker is refused."
);
pyo3::create_exception!(
    segue,
    MembershipError,
    PyValueError,
    "A membership that is not believed."
);
pyo3::create_exception!(
    segue,
    SegueUnreachable,
    PyRuntimeError,
    "Segue did not do what it was asked."
);
pyo3::create_exception!(
    segue,
    StaleState,
    SegueUnreachable,
    "Somebody else has written the state of this call."
);

/// The native half of the package `segue`.
#[pymodule]
mod _native {
    #[pymodule_export]
    use super::membership::{NativeVerifier, sign_membership};
    #[pymodule_export]
    use super::pool::{NativeCall, NativePool};
    #[pymodule_export]
    use super::{Barred, Draining, MembershipError, Refused, SegueUnreachable, StaleState};
}
