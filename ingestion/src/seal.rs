//! Seals payloads that were found good, where a setting or the event asks for it.

use axum::http::StatusCode;
use posthaste_event::{EventView, FieldError};
use posthaste_sealing::{Bound, Scope, is_sealed};
use posthaste_service::Problem;
use serde_json::value::RawValue;

use crate::{
    Intake, Origin,
    request::{Checked, WANTS_SEALING},
};

fn broken(reason: &dyn std::fmt::Display) -> Problem {
    Problem::new(StatusCode::INTERNAL_SERVER_ERROR, reason.to_string())
}

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
        checked.is_sealed = true;
        Ok(checked)
    }

    /// The payload of an event that gets another id, if it is sealed: it opens under its own id alone.
    pub(crate) fn reseal(
        &self,
        view: &EventView<'_>,
        event_id: &str,
    ) -> Result<Option<Box<RawValue>>, Problem> {
        if !is_sealed(view.payload) {
            return Ok(None);
        }
        let gone = || broken(&"the keys are gone that it was sealed with a moment ago");
        let ring = self.sealer.ring().ok_or_else(gone)?;
        let scope = Scope {
            tenant: &view.tenant,
            channel: view.channel,
            event_id: &view.event_id,
        };
        let clear = ring.open(&scope, view.payload).map_err(|_| gone())?;
        let scope = Scope { event_id, ..scope };
        let sealed = ring.seal(&scope, Bound::Event, &clear);
        sealed.map(Some).map_err(|error| broken(&error))
    }
}
