//! What is read of a job that is passed on as it is.

use super::messages::JobType;
use super::wire::{Fields, Malformed, put_bytes};

/// A look into the bytes of a job.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct JobView {
    /// Its id.
    pub id: String,
    /// What it is about.
    pub kind: JobType,
    /// The name of its room.
    pub room: String,
    /// The identifier of its room: another one may have its name later.
    pub room_sid: String,
    /// The identity of the participant it is about, if it is about one.
    pub participant: Option<String>,
    /// Of whoever dispatched it.
    pub metadata: String,
    /// For whom it is.
    pub agent_name: String,
    /// Of its dispatch.
    pub dispatch_id: String,
}

impl JobView {
    /// Reads it.
    ///
    /// # Errors
    ///
    /// [`Malformed`].
    pub fn of(job: &[u8]) -> Result<Self, Malformed> {
        let mut view = Self::default();
        for field in Fields::of(job) {
            let field = field?;
            match field.number {
                1 => field.text()?.clone_into(&mut view.id),
                2 => super::wire::Value::merge(&mut view.kind, &field)?,
                // A room and a participant have their identifier first and their name behind it.
                3 => {
                    view.room_sid = text(field.bytes()?, 1)?;
                    view.room = text(field.bytes()?, 2)?;
                }
                4 => view.participant = Some(text(field.bytes()?, 2)?),
                6 => field.text()?.clone_into(&mut view.metadata),
                7 => field.text()?.clone_into(&mut view.agent_name),
                9 => field.text()?.clone_into(&mut view.dispatch_id),
                _ => {}
            }
        }
        Ok(view)
    }

    /// The bytes of such a job, for trying things out.
    pub fn encode(&self) -> Vec<u8> {
        let of_name = |name: &str| job_with_text(&[], 2, name);
        let mut job = job_with_text(&[], 1, &self.id);
        super::wire::Value::put(&self.kind, 2, &mut job);
        let room = job_with_text(&[], 1, &self.room_sid);
        put_bytes(3, &job_with_text(&room, 2, &self.room), &mut job);
        if let Some(participant) = &self.participant {
            put_bytes(4, &of_name(participant), &mut job);
        }
        for (number, value) in [
            (6, &self.metadata),
            (7, &self.agent_name),
            (9, &self.dispatch_id),
        ] {
            super::wire::Value::put(value, number, &mut job);
        }
        job
    }
}

/// The last text with this number.
fn text(message: &[u8], number: u32) -> Result<String, Malformed> {
    let mut last = String::new();
    for field in Fields::of(message) {
        let field = field?;
        if field.number == number {
            field.text()?.clone_into(&mut last);
        }
    }
    Ok(last)
}

/// A message with one more text field behind all others: the last counts, so it is set, and every
/// other byte stays as it is.
pub fn job_with_text(message: &[u8], number: u32, value: &str) -> Vec<u8> {
    let mut spliced = message.to_vec();
    put_bytes(number, value.as_bytes(), &mut spliced);
    spliced
}
