//! What becomes of the jobs of an earlier server.

use super::{Job, Live};
use crate::store::{Entry, Origin, State, Store, Work};

/// The job of `entry`, as its server left it.
pub(super) fn recover(store: &Store, entry: Entry) -> Job {
    let state = match (entry.state, entry.origin) {
        (State::Running, _) if is_complete(store, &entry) => State::Done,
        (State::Running, _) => State::Interrupted,
        // Whoever waited for it has gone.
        (State::Waiting, Origin::Call) => State::Cancelled,
        (state, _) => state,
    };
    if state == State::Waiting {
        return Job { entry, live: Some(Live::new()), is_resumable: false };
    }
    if state != entry.state {
        let mut job = Job { entry, live: None, is_resumable: false };
        job.end(store, state, None);
        return job;
    }
    let is_resumable = is_resumable(store, &entry);
    Job { entry, live: None, is_resumable }
}

/// Whether the job can be put into the queue again. One that the server's end interrupted always can: where no step of it was
/// saved, it starts again from its seed.
pub(super) fn is_resumable(store: &Store, entry: &Entry) -> bool {
    match (&entry.work, entry.state) {
        (Work::Generate { .. }, State::Interrupted) => true,
        (Work::Generate { .. }, State::Cancelled) => store.has_saved_run(entry),
        _ => false,
    }
}

/// Whether the server ended between the job's last picture and the job's end.
fn is_complete(store: &Store, entry: &Entry) -> bool {
    let Work::Generate { request } = &entry.work else { return false };
    store.pictures_of(entry).len() == request.count.unwrap_or(1) && !store.has_saved_run(entry)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{draw::DrawRequest, queue::Queue};
    use std::{fs, sync::Arc};

    fn entry(store: &Store, state: State, origin: Origin) -> Entry {
        Entry {
            id: store.new_id(),
            origin,
            work: Work::Generate { request: Box::default() },
            model: "built-in".to_owned(),
            state,
            created: "2026-01-31T23:59:59.000Z".to_owned(),
            started: None,
            ended: None,
            resumes: false,
            pictures: Vec::new(),
            notes: Vec::new(),
            error: None,
        }
    }

    #[test]
    fn jobs_are_as_their_server_left_them() {
        let folder = tempfile::tempdir().unwrap();
        let (store, _) = Store::open(folder.path()).unwrap();
        let cases = [
            (State::Waiting, Origin::Own, State::Waiting),
            (State::Waiting, Origin::Call, State::Cancelled),
            (State::Running, Origin::Own, State::Interrupted),
            (State::Running, Origin::Call, State::Interrupted),
            (State::Done, Origin::Own, State::Done),
        ];
        let entries = cases.map(|(state, origin, _)| entry(&store, state, origin));
        entries.iter().for_each(|entry| store.save(entry, true).unwrap());
        // A half-written file is no job.
        fs::write(folder.path().join("jobs/20260101-000000-000.json"), "{").unwrap();
        let complete = entry(&store, State::Running, Origin::Own);
        store.save(&complete, false).unwrap();
        fs::write(folder.path().join(format!("{}.png", complete.id)), "picture").unwrap();
        drop(store);

        let (store, found) = Store::open(folder.path()).unwrap();
        assert_eq!(found.len(), 6);
        let queue = Queue::new(Arc::new(store), found, 10, 10);
        for (entry, (.., expected)) in entries.iter().zip(cases) {
            assert_eq!(queue.get(&entry.id).unwrap().entry.state, expected, "{entry:?}");
        }
        let done = queue.get(&complete.id).unwrap().entry;
        assert_eq!((done.state, &done.pictures[..]), (State::Done, &[complete.id.clone()][..]));
        assert_eq!(queue.counts(), (Vec::new(), 1));
    }

    #[test]
    fn the_oldest_jobs_that_ended_are_forgotten() {
        let folder = tempfile::tempdir().unwrap();
        let (store, _) = Store::open(folder.path()).unwrap();
        let entries: Vec<Entry> = (0..5)
            .map(|index| entry(&store, if index == 0 { State::Waiting } else { State::Done }, Origin::Own))
            .collect();
        let ids: Vec<String> = entries.iter().map(|entry| entry.id.clone()).collect();
        let queue = Queue::new(Arc::new(store), entries, 10, 2);
        let left: Vec<String> = queue.list(None, 10, None).into_iter().map(|job| job.entry.id).collect();
        assert_eq!(left, [&ids[4], &ids[3], &ids[0]].map(String::as_str));
        let older: Vec<String> =
            queue.list(None, 10, Some(&ids[3])).into_iter().map(|job| job.entry.id).collect();
        assert_eq!(older, [ids[0].as_str()]);
    }

    #[test]
    fn a_full_queue_refuses() {
        let folder = tempfile::tempdir().unwrap();
        let (store, _) = Store::open(folder.path()).unwrap();
        let queue = Queue::new(Arc::new(store), Vec::new(), 2, 10);
        let submit = || {
            let work = Work::Generate { request: Box::new(DrawRequest::default()) };
            queue.submit(work, "built-in".to_owned(), Origin::Own, Vec::new())
        };
        let first = submit().unwrap();
        submit().unwrap();
        let full = submit().unwrap_err();
        assert_eq!((full.status.as_u16(), full.code, full.retry_after), (503, "queue.full", Some(10)));
        queue.cancel(&first).unwrap();
        let third = submit().unwrap();
        assert_eq!(queue.get(&third).unwrap().place, Some(1));
        queue.close();
        assert_eq!(submit().unwrap_err().code, "queue.closed");
        assert!(queue.next().is_none());
    }
}
