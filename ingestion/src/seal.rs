//! Seals payloads that were found good, where a setting or the event asks for it.

use axum::http::StatusCode;
use posthaste_event::{EventView, FieldError};
use posthaste_sealing::{Bound, Scope};
use posthaste_service::Problem;

use crate::{
    Intake, Origin,
    request::{Checked, WANTS_SEALING},
};

impl Intake {
    /// Seals the payload, if it is to be. From here on nothing has it in clear.
    pub(crate) fn seal(&self, mut checked: Checked, origin: &Origin) -> Result<Checked, Problem> {
        let accepted = &checked.accepted;
        if !checked.wants_sealing && !self.sealer.asks_for(&accepted.tenant, accepted.channel) {
            return Ok(checked);
        }
        let Some(ring) = self.sealer.ring() else {
            let error = FieldError::new(
                format!("metadata.{WANTS_SEALING}"),
                "no keys are set up here to encrypt with",
                "events without it, until encryption.keys_file names a file with keys",
            );
            return Err(Problem::fields(StatusCode::BAD_REQUEST, vec![error]));
        };
        let broken = |reason: &dyn std::fmt::Display| {
            Problem::new(StatusCode::INTERNAL_SERVER_ERROR, reason.to_string())
        };
        let view = checked.event.view().map_err(|error| broken(&error))?;
        let (bound, event_id) = match &origin.firing_id {
            Some(id) => (Bound::Plan, id),
            None => (Bound::Event, &view.event_id),
        };
        let scope = Scope {
            tenant: &view.tenant,
            channel: view.channel,
            event_id,
        };
        let payload = ring
            .seal(&scope, bound, view.payload)
            .map_err(|error| broken(&error))?;
        let sealed = EventView {
            payload: &payload,
            ..view
        };
        let event = sealed.to_bytes().map_err(|error| broken(&error))?;
        checked.event = event;
        Ok(checked)
    }
}
