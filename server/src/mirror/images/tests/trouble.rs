//! Streams that break, bytes that change, peers that lie.

use std::{
    collections::HashSet,
    net::Shutdown,
    os::unix::fs::PermissionsExt,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use super::*;
use crate::mirror::images::{
    conn::Conn,
    wire::{Answer, FRAME_HEAD, Head, Question, Sum},
};

const MIB: u64 = 1 << 20;

/// A pair with one version of a few chunks, of which one is a hole.
fn small() -> (Pair, Version) {
    let pair = Pair::new();
    let data = [(0, noise(1, 100_000)), (3 * CHUNK, noise(2, 130_000))];
    let version = publish(&pair.there, "debian", 8 * CHUNK, &data);
    (pair, version)
}

/// Everything that the serving side says in an undisturbed pull.
fn conversation(pair: &Pair) -> Vec<u8> {
    let mut heard = Vec::new();
    let other = Catalogue::open(pair.path("undisturbed")).unwrap();
    pull_from(&pair.there, |stream| {
        let mut stream = Tampered::new(stream, None, None);
        pull_all(&other, &mut stream).unwrap();
        heard = std::mem::take(&mut stream.heard);
    });
    heard
}

/// Where each frame begins.
fn frames(heard: &[u8]) -> Vec<u64> {
    let (mut at, mut begins) = (0, Vec::new());
    while at < heard.len() {
        begins.push(at as u64);
        let head = heard[at..at + FRAME_HEAD].try_into().unwrap();
        at += FRAME_HEAD + Head::decode(head).unwrap().length;
    }
    begins
}

/// Cut at each message and within each, the next try sees nothing of it but saves what came.
#[test]
fn a_stream_that_breaks_at_any_message_leaves_nothing_to_see() {
    let (pair, _) = small();
    let heard = conversation(&pair);
    let begins = frames(&heard);
    assert!(begins.len() >= 15, "{begins:?}");
    let cuts: Vec<_> = begins
        .iter()
        .flat_map(|at| [*at, at + 5, at + 13])
        .collect();
    for (round, cut) in cuts.iter().enumerate() {
        let here = Catalogue::open(pair.path(&round.to_string())).unwrap();
        let broken = pull_from(&pair.there, |stream| {
            pull_all(&here, &mut Tampered::new(stream, None, Some(*cut)))
        });
        broken.unwrap_err();
        assert_empty(&here);
        let resumed = pull_from(&pair.there, |mut stream| pull_all(&here, &mut stream)).unwrap();
        assert_same(&pair.there, &here);
        // All whole chunks that had come are not asked for again.
        let chunks = begins
            .windows(2)
            .filter(|two| two[1] <= *cut && two[1] - two[0] > CHUNK);
        let saved = chunks.count() as u64 * CHUNK;
        assert!(
            resumed.received <= heard.len() as u64 - saved,
            "cut at {cut}: {} of {} bytes came, {saved} had come",
            resumed.received,
            heard.len()
        );
    }
}

#[test]
fn a_byte_that_changes_on_the_way_is_found_and_nothing_is_published() {
    let (pair, _) = small();
    let heard = conversation(&pair);
    // Every byte of what is not content, and some of what is.
    let begins = frames(&heard).into_iter();
    let heads = begins.flat_map(|at| at..(at + 40).min(heard.len() as u64));
    let all = heads.chain((0..heard.len() as u64).step_by(4099));
    let places: HashSet<_> = all.collect();
    for at in places {
        // All of it comes each time.
        pair.here.forget_copies(&|_| false).unwrap();
        let result = pair.pull_through(|stream| Tampered::new(stream, Some(at), None));
        let error = result
            .err()
            .unwrap_or_else(|| panic!("byte {at} was not missed"));
        assert!(format!("{error:#}").contains("damaged"), "{error:#}");
        assert_empty(&pair.here);
    }
    pair.pull().unwrap();
    assert_same(&pair.there, &pair.here);
}

/// Bit rot on the primary's disk: the digests of chunks agree with what comes, the version's own does not.
#[test]
fn a_version_that_is_damaged_there_is_not_published_here() {
    let (pair, version) = small();
    let good = publish(&pair.there, "windows", MIB, &[(0, noise(5, 100))]);
    let change = |xor: u8| {
        let writable = fs::Permissions::from_mode(0o644);
        fs::set_permissions(version.disk_path(), writable).unwrap();
        let mut options = File::options();
        let disk = options.read(true).write(true).open(version.disk_path());
        let disk = disk.unwrap();
        let mut byte = [0];
        disk.read_exact_at(&mut byte, 777).unwrap();
        disk.write_all_at(&[byte[0] ^ xor], 777).unwrap();
    };
    change(0xff);
    let outcome = pair.pull().unwrap();
    let said = format!("{:#}", outcome.failed[0]);
    assert!(said.contains("image verify debian@1"), "{said}");
    assert_eq!(pair.here.find(version.id()).unwrap(), None);
    assert_copied(&good, &pair.here);

    change(0xff);
    let outcome = pair.pull().unwrap();
    assert_copied(&version, &pair.here);
    assert!(
        outcome.received < CHUNK + 5000,
        "only the chunk that was bad: {}",
        outcome.received
    );
}

#[test]
fn two_servers_that_gave_one_number_are_told_and_nothing_is_lost() {
    let pair = Pair::new();
    let theirs = publish(&pair.there, "debian", MIB, &[(0, vec![1])]);
    let other = publish(&pair.there, "debian", MIB, &[(0, vec![2])]);
    let ours = publish(&pair.here, "debian", MIB, &[(0, vec![3])]);
    let outcome = pair.pull().unwrap();
    let [error] = &outcome.failed[..] else {
        panic!("{:?}", outcome.failed)
    };
    let said = format!("{error:#}");
    assert_eq!(error.version, Some(theirs.id()));
    for wanted in [
        theirs.id().to_string(),
        ours.id().to_string(),
        "image rm".to_owned(),
    ] {
        assert!(said.contains(&wanted), "{said}");
    }
    assert_eq!(pair.here.find(ours.id()).unwrap(), Some(ours.clone()));
    assert_copied(&other, &pair.here);
    let listing = outcome.listing;
    let lacking = crate::mirror::images::lacking(&pair.here, &listing).unwrap();
    assert_eq!(lacking, [theirs.id()]);

    pair.here.remove(&ours.reference(), [], true).unwrap();
    assert!(pair.pull().unwrap().failed.is_empty());
    assert_same(&pair.there, &pair.here);
}

/// Pulls, and is cancelled when a version could be wanted: then `meanwhile` happens, which says whether it is.
fn cancelled_pull(pair: &Pair, mut meanwhile: impl FnMut() -> bool) -> String {
    let cancel = Cancel::new().unwrap();
    let result = pull_from(&pair.there, |mut stream| {
        let what = Pull {
            catalogue: &pair.here,
            want: &mut |_| {
                cancel.cancel();
                meanwhile()
            },
            in_use: &|_| false,
            reserve: Bytes::new(0),
            progress: &Quiet,
            cancel: &cancel,
        };
        pull(what, &mut stream)
    });
    format!("{:#}", result.unwrap_err())
}

#[test]
fn a_job_that_is_cancelled_stops() {
    let (pair, _) = small();
    assert!(cancelled_pull(&pair, || true).contains("told to stop"));
    assert_empty(&pair.here);
}

/// The roles change while a version comes: what is current here is for this server to say from then on.
#[test]
fn a_job_that_is_cancelled_leaves_current_alone() {
    let pair = Pair::new();
    let first = publish(&pair.there, "windows", MIB, &[]);
    publish(&pair.there, "windows", MIB, &[(0, vec![2])]);
    pair.pull().unwrap();
    pair.there.set_current(&first.reference()).unwrap();
    publish(&pair.there, "debian", MIB, &[]);
    let second = "windows@2".parse().unwrap();
    let said = cancelled_pull(&pair, || {
        assert_eq!(
            pair.here.current(first.image()).unwrap(),
            Some(first.number())
        );
        pair.here.set_current(&second).unwrap();
        false
    });
    assert!(said.contains("told to stop"), "{said}");
    assert_eq!(pair.here.current(first.image()).unwrap(), second.number);
}

/// With a read timeout a server that nobody asks anything hears that it is to stop.
#[test]
fn a_server_that_waits_stops_when_told() {
    let pair = Pair::new();
    let (near, mut far) = UnixStream::pair().unwrap();
    far.set_read_timeout(Some(Duration::from_millis(1)))
        .unwrap();
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let (there, stop) = (&pair.there, &stop);
        let serving =
            scope.spawn(move || serve(there, &mut far, &|| stop.load(Ordering::Relaxed), &|_| ()));
        let mut near = &near;
        let never = || false;
        let mut conn = Conn::new(&mut near, &never);
        conn.ask(&Question::Hello(1, 1)).unwrap();
        assert_eq!(conn.next_answer().unwrap(), Answer::Hello(1));
        stop.store(true, Ordering::Relaxed);
        serving.join().unwrap().unwrap();
    });
}

/// What `answers` says, whatever it is asked.
fn pull_from_liar(here: &Catalogue, answers: &[Answer<'_>]) -> anyhow::Result<Outcome> {
    let (mut near, mut far) = UnixStream::pair().unwrap();
    let last_word = far.try_clone().unwrap();
    thread::scope(|scope| {
        scope.spawn(move || {
            let never = || false;
            let mut conn = Conn::new(&mut far, &never);
            for answer in answers {
                // The puller may have had enough.
                let _ = conn.answer(answer).and_then(|()| conn.flush());
            }
            let _ = last_word.shutdown(Shutdown::Write);
            while let Ok(Some(_)) = conn.question() {}
        });
        let result = pull_all(here, &mut near);
        drop(near);
        result
    })
}

#[test]
fn lies_are_refused() {
    let (pair, version) = small();
    let other = publish(&pair.there, "debian", 8 * CHUNK, &[]);
    let record = Original::of(&version).unwrap();
    let newer = Original::of(&other).unwrap();
    let hello = Answer::Hello(1);
    let list = [
        hello.clone(),
        Answer::Version(true, record.text()),
        Answer::End,
    ];
    let zeros = |count| Answer::Sums(0, vec![Sum::Zeros; count]);
    let mut data = vec![Sum::Zeros; 4];
    data[0] = Sum::Data(record.digest(Part::Kernel));
    let wrong = noise(5, CHUNK as usize);
    let then = |more: &[Answer<'static>]| [list.to_vec(), more.to_vec()].concat();
    let chunk = [
        then(&[Answer::Sums(0, data)]),
        vec![Answer::Chunk(0, &wrong)],
    ]
    .concat();
    let cases: [(&str, Vec<Answer<'_>>); 9] = [
        ("kind 11", vec![Answer::Hello(2)]),
        ("kind 14", vec![Answer::End]),
        ("twice", [&list[..2], &list[1..]].concat()),
        (
            "two current",
            vec![
                hello.clone(),
                list[1].clone(),
                Answer::Version(true, newer.text()),
                Answer::End,
            ],
        ),
        ("kind 14", then(&[Answer::End])),
        ("kind 15", then(&[zeros(5)])),
        ("kind 15", then(&[Answer::Sums(1, vec![Sum::Zeros; 4])])),
        ("another digest", chunk),
        ("kind 11", vec![hello.clone(), hello.clone()]),
    ];
    for (wanted, answers) in cases {
        let error = pull_from_liar(&pair.here, &answers).unwrap_err();
        assert!(format!("{error:#}").contains(wanted), "{wanted}: {error:#}");
        assert_empty(&pair.here);
    }
    // A list of digests that agrees with itself: everything is zeros.
    let empty = then(&[zeros(4), zeros(1), zeros(8)]);
    let outcome = pull_from_liar(&pair.here, &empty).unwrap();
    assert!(format!("{:#}", outcome.failed[0]).contains("digest"));
    assert_empty(&pair.here);
    assert!(pair.pull().unwrap().failed.is_empty());
}

/// Version records of any length and number must not fill memory.
#[test]
fn a_list_without_end_is_refused() {
    let pair = Pair::new();
    let record = vec![b'x'; 64 << 10];
    let mut answers = vec![Answer::Hello(1)];
    answers.extend((0..600).map(|_| Answer::Version(false, &record)));
    let error = pull_from_liar(&pair.here, &answers).unwrap_err();
    assert!(
        format!("{error:#}").contains("too many versions"),
        "{error:#}"
    );
}

/// A newer release on the other server: what it can say to this one, it says.
#[test]
fn versions_of_a_newer_release_are_told_and_do_not_stop_the_others() {
    let (pair, version) = small();
    let record = Original::of(&version).unwrap();
    let text = String::from_utf8(record.text().to_vec()).unwrap();
    let newer = text.replacen("\"format\": 1", "\"format\": 2", 1);
    let answers = [
        Answer::Hello(1),
        Answer::Version(false, newer.as_bytes()),
        Answer::End,
    ];
    let outcome = pull_from_liar(&pair.here, &answers).unwrap();
    let said = format!("{:#}", outcome.failed[0]);
    assert!(said.contains("newer bootroom"), "{said}");
}

/// Asks `serve`, and returns what it says to that.
fn ask_server(
    there: &Catalogue,
    questions: &[Question],
    check: impl Fn(usize, Answer<'_>),
) -> anyhow::Result<()> {
    let (mut near, mut far) = UnixStream::pair().unwrap();
    thread::scope(|scope| {
        let serving = scope.spawn(move || serve(there, &mut far, &|| false, &|_| ()));
        let never = || false;
        let mut conn = Conn::new(&mut near, &never);
        for (index, question) in questions.iter().enumerate() {
            conn.ask(question).unwrap();
            check(index, conn.next_answer().unwrap());
        }
        drop(near);
        serving.join().unwrap()
    })
}

#[test]
fn a_server_refuses_what_it_cannot_give_and_goes_on() {
    use crate::mirror::images::wire::{Chunks, FileOf};
    let (pair, version) = small();
    let file = |version, part| FileOf { version, part };
    let of = |first, count| Chunks { first, count };
    let disk = file(version.id(), Part::Disk);
    let questions = [
        Question::Hello(1, 7),
        Question::Sums(file(VersionId::random(), Part::Disk), of(0, 1)),
        Question::Sums(disk, of(7, 2)),
        Question::Chunks(disk, vec![8]),
        Question::Chunks(disk, vec![u32::MAX]),
        Question::Sums(disk, of(7, 1)),
    ];
    let ended = ask_server(&pair.there, &questions, |index, answer| match index {
        0 => assert_eq!(answer, Answer::Hello(1)),
        5 => assert_eq!(answer, Answer::Sums(7, vec![Sum::Zeros])),
        _ => assert!(matches!(answer, Answer::Refused(_)), "{index}: {answer:?}"),
    });
    ended.unwrap();
}

#[test]
fn releases_that_have_no_protocol_in_common_say_so() {
    let pair = Pair::new();
    let ended = ask_server(&pair.there, &[Question::Hello(2, 3)], |_, answer| {
        let Answer::Refused(reason) = answer else {
            panic!("{answer:?}")
        };
        assert!(reason.contains("upgrade the older one"), "{reason}");
    });
    ended.unwrap_err();
}
