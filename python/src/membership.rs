//! OpenRTC's membership, by its own names.

use pyo3::prelude::*;
use segue_worker::MembershipVerifier;

use crate::MembershipError;

/// Signs a worker's version with a shared secret, byte for byte as OpenRTC does.
#[pyfunction]
#[pyo3(signature = (*, version, worker_id, timestamp, secret))]
pub(crate) fn sign_membership(
    version: &str,
    worker_id: &str,
    timestamp: f64,
    secret: &str,
) -> String {
    segue_worker::sign_membership(version, worker_id, timestamp, secret)
}

/// Verifies it. The clock is Python's.
#[pyclass(module = "segue._native", frozen)]
pub(crate) struct NativeVerifier(MembershipVerifier);

#[pymethods]
impl NativeVerifier {
    #[new]
    #[pyo3(signature = (secrets, expected_version, max_age_seconds))]
    #[expect(
        clippy::needless_pass_by_value,
        reason = "a list of Python's comes as a vector"
    )]
    fn new(
        secrets: Vec<String>,
        expected_version: Option<String>,
        max_age_seconds: f64,
    ) -> PyResult<Self> {
        let verifier = MembershipVerifier::new(secrets.iter().map(String::as_str));
        let mut verifier = verifier.map_err(|error| MembershipError::new_err(error.to_string()))?;
        verifier.expected_version = expected_version;
        verifier.max_age_seconds = max_age_seconds;
        Ok(Self(verifier))
    }

    fn verify(
        &self,
        token: &str,
        version: &str,
        worker_id: &str,
        timestamp: f64,
        now: f64,
    ) -> PyResult<()> {
        let signed = (version, worker_id, timestamp);
        let verified = self.0.verify(token, signed, now);
        verified.map_err(|error| MembershipError::new_err(error.to_string()))
    }
}
