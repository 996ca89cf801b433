//! Sessions: models that are open for drawing, with the graphs of their last run.

use std::sync::Arc;

use sdq::{Error, ErrorKind, Request, Session, Watch, add_ons::AddOns};

use super::{Listed, Models, Stamp};

/// Most sessions that are kept.
const MAX_KEPT: usize = 8;

/// Sessions that nobody uses, the latest last.
#[derive(Debug, Default)]
pub(super) struct Pool(Vec<(Key, Session)>);

/// What a session was opened for.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Key {
    pub(super) id: String,
    pub(super) stamp: Stamp,
    pub(super) add_ons: AddOns,
}

impl Pool {
    pub(super) fn has(&self, id: &str) -> bool {
        self.0.iter().any(|(key, _)| key.id == id)
    }
}

/// A session that one job uses. It goes back to the pool afterwards.
pub(crate) struct Borrowed {
    models: Arc<Models>,
    session: Option<(Key, Session)>,
}

impl Borrowed {
    pub(crate) fn session(&self) -> Result<&Session, Error> {
        self.session.as_ref().map(|(_, session)| session).ok_or(Error::SessionEnded)
    }

    /// The session has failed and is not used again.
    pub(crate) fn discard(&mut self) {
        self.session = None;
    }
}

impl Drop for Borrowed {
    fn drop(&mut self) {
        let Some((key, session)) = self.session.take() else { return };
        let mut pool = self.models.pool();
        // Closed outside of the lock.
        let surplus = if pool.0.len() >= MAX_KEPT { Some(pool.0.remove(0)) } else { None };
        pool.0.push((key, session));
        drop(pool);
        drop(surplus);
    }
}

impl Models {
    /// A session of the model with `add_ons`, with room for a run of `request`: those that were used least recently are
    /// closed for it.
    ///
    /// # Errors
    /// When the model or an add-on cannot be opened.
    pub(crate) fn borrow(
        self: &Arc<Models>,
        listed: &Listed,
        add_ons: &AddOns,
        request: &Request,
        watch: &mut Watch<'_>,
    ) -> Result<Borrowed, Error> {
        let key = self.key(listed, add_ons);
        let kept = {
            let mut pool = self.pool();
            let place = pool.0.iter().rposition(|(other, _)| *other == key);
            place.map(|place| pool.0.remove(place).1)
        };
        let session = match kept {
            Some(session) => session,
            None => {
                let pipeline = add_ons.apply(self.pipeline(listed)?, self.options.threads, watch)?;
                Session::new(pipeline, &self.budget)?
            }
        };
        self.make_room(&session, request);
        Ok(Borrowed { models: self.clone(), session: Some((key, session)) })
    }

    /// Closes sessions until a run of `request` has memory for its graphs.
    fn make_room(&self, session: &Session, request: &Request) {
        loop {
            match session.pipeline().plan(request) {
                Ok(plan) if self.budget.left().is_none_or(|left| plan.taken() <= left) => return,
                Err(error) if ErrorKind::of_engine(&error) != ErrorKind::MemoryDoesNotFit => return,
                _ => {}
            }
            let mut pool = self.pool();
            if pool.0.is_empty() {
                return;
            }
            let oldest = pool.0.remove(0);
            drop(pool);
            drop(oldest);
        }
    }

    /// Closes all sessions that nobody uses.
    pub(crate) fn close(&self) {
        let sessions = std::mem::take(&mut self.pool().0);
        drop(sessions);
    }
}
