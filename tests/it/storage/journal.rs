use handclip::storage::{Batch, JournalHead, JournalProblem, Seal, Store};

use super::open;
use crate::crash::log_of;

fn noted(store: &Store, text: &str) -> u64 {
    let mut batch = Batch::default();
    batch.note(text.as_bytes().to_vec());
    store.committed(batch).unwrap()
}

#[test]
fn notes_are_numbered_in_order_and_lie_in_the_batch_that_they_came_with() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    assert_eq!(store.journal_head().unwrap(), JournalHead::default());
    assert_eq!(noted(&store, "first"), 1);
    let mut batch = Batch::default();
    batch.put(vec![1], b"a change".to_vec(), Seal::Store);
    batch.note(b"second".to_vec());
    batch.note(b"third".to_vec());
    assert_eq!(store.committed(batch).unwrap(), 2);
    let numbers: Vec<u64> = std::thread::scope(|scope| {
        let writers: Vec<_> = (0..8)
            .map(|n| {
                scope.spawn({
                    let store = &store;
                    move || noted(store, &format!("w{n}"))
                })
            })
            .collect();
        writers.into_iter().map(|writer| writer.join().unwrap()).collect()
    });
    for (n, number) in numbers.iter().enumerate() {
        assert_eq!(store.note(*number).unwrap().unwrap().content, format!("w{n}").as_bytes());
    }
    store.close();
    drop(store);
    let store = open(dir.path());
    let head = store.journal_head().unwrap();
    assert_eq!(head.length, 11);
    assert_eq!(noted(&store, "after a restart"), 12);
    let check = store.check_journal(&[head]).unwrap();
    assert_eq!((check.head.length, check.problems), (12, vec![]));
    // Recomputed here from the contents alone.
    let chain = (1..=12).fold(JournalHead::default(), |head, number| {
        head.after(&store.note(number).unwrap().unwrap().content)
    });
    assert_eq!(chain, check.head);
    assert_eq!(store.note(13).unwrap(), None);
    let long = vec![0; Store::max_note() + 1];
    let mut batch = Batch::default();
    batch.note(long);
    assert!(store.commit(batch).is_err());
    assert_eq!(store.journal_head().unwrap().length, 12);
}

#[test]
fn a_note_that_is_edited_removed_moved_or_added_shows() {
    let note = |number: u64| [&[0xf0][..], &number.to_be_bytes()].concat();
    let tampered = |change: &dyn Fn(&sled::Db)| {
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path());
        (1..=9).for_each(|n| assert_eq!(noted(&store, &format!("note {n}")), n));
        store.close();
        drop(store);
        let log = log_of(dir.path());
        change(&log);
        log.flush().unwrap();
        drop(log);
        open(dir.path()).check_journal(&[]).unwrap().problems
    };
    use JournalProblem::{Altered, BeyondTheEnd, Missing};
    assert_eq!(tampered(&|_| {}), []);
    assert_eq!(tampered(&|log| drop(log.remove(note(4)).unwrap())), [(4, Missing)]);
    assert_eq!(tampered(&|log| drop(log.remove(note(9)).unwrap())), [(9, Missing)]);
    let edited = tampered(&|log| {
        let mut value = log.get(note(5)).unwrap().unwrap().to_vec();
        let last = value.len() - 20;
        value[last] ^= 1;
        log.insert(note(5), value).unwrap();
    });
    assert_eq!(edited, [(5, Altered)]);
    let swapped = tampered(&|log| {
        let (a, b) = (log.get(note(2)).unwrap().unwrap(), log.get(note(3)).unwrap().unwrap());
        log.insert(note(2), b).unwrap();
        log.insert(note(3), a).unwrap();
    });
    assert_eq!(swapped, [(2, Altered), (3, Altered)]);
    let added = tampered(&|log| {
        let value = log.get(note(9)).unwrap().unwrap();
        log.insert(note(10), value).unwrap();
    });
    assert_eq!(added, [(10, BeyondTheEnd)]);
}

/// The whole directory of a moment ago is consistent in itself: only a head that was written down elsewhere tells.
#[test]
fn a_head_that_was_seen_tells_an_older_journal_and_another_one() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    noted(&store, "kept");
    let old = store.journal_head().unwrap();
    noted(&store, "a branch");
    let branch = store.journal_head().unwrap();
    assert_eq!(store.check_journal(&[old, branch]).unwrap().problems, []);
    let foreign = JournalHead { length: 2, hash: [7; 32] };
    assert_eq!(store.check_journal(&[foreign]).unwrap().problems, [(2, JournalProblem::Unchained)]);
    let later = branch.after(b"what was there once");
    assert_eq!(store.check_journal(&[later]).unwrap().problems, [(3, JournalProblem::Missing)]);
}
