//! The witness runs as a process of its own, so that it can be killed and frozen.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{Shutdown, TcpListener, TcpStream},
    path::Path,
    process::{Child, Command, Stdio},
    sync::{
        atomic::{AtomicBool, AtomicU64, Ordering},
        mpsc::{Receiver, RecvTimeoutError, channel},
    },
};

use mirror::{NodeId, Record, Revision, Swap, Term, WitnessId};
use rustix::process::{Pid, Signal, kill_process};

use super::*;

const LIMIT: Duration = Duration::from_secs(60);

pub fn wait_for(what: &str, mut happened: impl FnMut() -> bool) {
    let end = Instant::now() + LIMIT;
    while !happened() {
        assert!(Instant::now() < end, "waited for {what}");
        thread::sleep(Duration::from_millis(5));
    }
}

/// One server of the pair, asking.
pub struct Server {
    client: WitnessClient,
    answers: Mutex<Receiver<WitnessAnswer>>,
    number: AtomicU64,
    me: NodeId,
}

impl Server {
    pub fn new(place: WitnessPlace, secret: &Path, me: NodeId) -> Self {
        let (out, answers) = channel();
        let secret = Arc::new(PairSecret::read(secret).unwrap());
        let answered = Box::new(move |answer| out.send(answer).unwrap_or_default());
        Self {
            client: WitnessClient::start(place, secret, me, answered).unwrap(),
            answers: Mutex::new(answers),
            number: AtomicU64::new(0),
            me,
        }
    }

    /// Asks once; the number that it got.
    pub fn once(&self, swap: Option<Swap>) -> u64 {
        let number = self.number.fetch_add(1, Ordering::Relaxed) + 1;
        let from = self.me;
        self.client.ask(WitnessRequest { number, from, swap });
        number
    }

    /// Asks until there is an answer, as the machine does.
    pub fn ask(&self, swap: Option<Swap>) -> WitnessAnswer {
        let end = Instant::now() + LIMIT;
        while Instant::now() < end {
            let number = self.once(swap);
            match self.answer(Duration::from_millis(500)) {
                // One that came after it was no longer waited for is as true as it was then.
                Ok(answer) if answer.number < number => {}
                Ok(answer) => return answer,
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => panic!("nobody answers any more"),
            }
        }
        panic!("no answer: {:?}", self.client.trouble());
    }

    pub fn look(&self) -> WitnessAnswer {
        self.ask(None)
    }

    /// Makes this server the holder, if the record is still the one of `seen`.
    pub fn take(&self, seen: WitnessAnswer) -> WitnessAnswer {
        self.ask(Some(taking(seen, self.me)))
    }

    /// Asks once, and waits until that came to nothing; the reason.
    pub fn fail(&self) -> String {
        self.once(None);
        wait_for("trouble", || self.client.trouble().is_some());
        self.client.trouble().unwrap()
    }

    /// The next answer, if it comes in time.
    fn answer(&self, limit: Duration) -> Result<WitnessAnswer, RecvTimeoutError> {
        self.answers.lock().recv_timeout(limit)
    }

    /// Asks until that comes to nothing for this reason; on a busy machine it may first be too late for any.
    pub fn fail_with(&self, reason: &str) {
        let mut trouble = String::new();
        wait_for(reason, || {
            self.once(None);
            self.nothing_left_to_ask();
            trouble = self.client.trouble().unwrap_or_default();
            trouble.contains(reason)
        });
        assert!(!trouble.contains("pair:"), "a login is shown: {trouble}");
    }

    fn nothing_left_to_ask(&self) {
        wait_for("the question to leave", || {
            self.client.shared.slot.lock().next.is_none()
        });
    }
}

pub fn taking(seen: WitnessAnswer, me: NodeId) -> Swap {
    let term = seen.record.map_or(Term(0), |record| record.term);
    let record = Record {
        term: term.next_for(me),
        holder: me,
        outdated: None,
    };
    Swap {
        witness: seen.witness,
        expect: seen.revision,
        record,
        force: false,
    }
}

pub fn secret_in(folder: &Path) -> PathBuf {
    let path = folder.join("secret");
    PairSecret::make(&path).unwrap();
    path
}

/// A process that can be killed and frozen, and does not outlive the test.
pub struct Process(pub Child);

impl Process {
    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.0), signal).unwrap();
    }

    /// Returns when none of its threads does anything any more.
    pub fn freeze(&self) {
        self.signal(Signal::STOP);
        let tasks = format!("/proc/{}/task", self.0.id());
        wait_for("all threads to stop", || {
            let mut tasks = std::fs::read_dir(&tasks).unwrap();
            tasks.all(|task| {
                let stat = std::fs::read_to_string(task.unwrap().path().join("stat"));
                stat.is_ok_and(|stat| stat.rsplit(')').next().unwrap().starts_with(" T"))
            })
        });
    }

    pub fn thaw(&self) {
        self.signal(Signal::CONT);
    }

    pub fn kill(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

pub struct Site {
    folder: tempfile::TempDir,
    pub secret: PathBuf,
}

impl Site {
    pub fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let secret = secret_in(folder.path());
        Self { folder, secret }
    }

    /// A witness on this port, any if 0; the process, and where it listens.
    pub fn witness(&self, port: u16) -> (Process, SocketAddr) {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args([WITNESS, "--exact", "--ignored", "--nocapture"]);
        command.env("SITE", self.folder.path());
        command.env("LISTEN", format!("127.0.0.1:{port}"));
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut process = Process(command.spawn().unwrap());
        let mut lines = BufReader::new(process.0.stdout.take().unwrap()).lines();
        let address = lines.find_map(|line| {
            let line = line.unwrap();
            Some(line.split_once("listening on ")?.1.parse().unwrap())
        });
        (process, address.expect("a witness that listens"))
    }

    fn server(&self, address: SocketAddr, me: NodeId) -> Server {
        Server::new(WitnessPlace::Bootroom(address), &self.secret, me)
    }
}

const WITNESS: &str = "mirror::asking::tests::a_witness_for_the_other_tests";

#[test]
#[ignore = "a process of the other tests"]
fn a_witness_for_the_other_tests() {
    let Some(site) = std::env::var_os("SITE").map(PathBuf::from) else {
        return;
    };
    // Gone with the test that started it, however that ends.
    thread::spawn(|| {
        let _ = std::io::stdin().read_to_end(&mut Vec::new());
        std::process::exit(0);
    });
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let (failed, _failure) = tokio::sync::mpsc::channel(1);
        let keeper = crate::mirror::witness::Keeper::open(&site.join("state"), failed).unwrap();
        let secret = Arc::new(PairSecret::read(&site.join("secret")).unwrap());
        let address = std::env::var("LISTEN").unwrap();
        let listener = tokio::net::TcpListener::bind(address).await.unwrap();
        println!("\nlistening on {}", listener.local_addr().unwrap());
        crate::mirror::witness::serve(listener, secret, Arc::new(keeper)).await;
    });
}

#[test]
fn both_servers_see_one_record_and_one_of_them_wins() {
    let site = Site::new();
    let (_witness, address) = site.witness(0);
    let (a, b) = (
        site.server(address, NodeId::A),
        site.server(address, NodeId::B),
    );
    let empty = a.look();
    assert_eq!((empty.revision, empty.record), (Revision(0), None));
    assert_eq!(b.look().witness, empty.witness);
    let won = a.take(empty);
    assert_eq!(won.revision, Revision(1));
    let lost = b.take(empty);
    assert_eq!((lost.revision, lost.record), (won.revision, won.record));
    assert_eq!(b.take(lost).record.unwrap().holder, NodeId::B);
    assert_eq!(a.look().revision, Revision(2));
    assert_eq!(a.client.trouble(), None);
}

#[test]
fn a_witness_that_is_killed_and_comes_back_is_asked_again() {
    let site = Site::new();
    let (mut witness, address) = site.witness(0);
    let a = site.server(address, NodeId::A);
    let won = a.take(a.look());
    witness.kill();
    a.fail_with("cannot connect");
    let (_witness, _) = site.witness(address.port());
    let again = a.look();
    assert_eq!((again.witness, again.record), (won.witness, won.record));
    assert_eq!(a.client.trouble(), None);
}

#[test]
fn a_frozen_witness_blocks_nobody_and_the_latest_question_counts() {
    let site = Site::new();
    let (witness, address) = site.witness(0);
    let a = site.server(address, NodeId::A);
    let empty = a.look();
    witness.freeze();
    let given_up = a.once(None);
    a.nothing_left_to_ask();
    let begun = Instant::now();
    let replaced = a.once(None);
    let asked = a.once(Some(taking(empty, NodeId::A)));
    // Had each waited for the end of the one before, it would have taken twice the deadline.
    assert!(begun.elapsed() < DEADLINE * 3 / 2);
    wait_for("the first question to be given up", || {
        a.client.trouble().is_some()
    });
    assert!(a.client.trouble().unwrap().contains("in time"));
    witness.thaw();
    let answer = a.answer(DEADLINE).ok();
    assert!(
        answer.is_none_or(|answer| answer.number == asked),
        "{given_up}, {replaced}: {answer:?}"
    );
    let record = a.ask(Some(taking(empty, NodeId::A))).record;
    assert_eq!(record, Some(taking(empty, NodeId::A).record));
}

/// Passes everything on, until it is told to go dark: then the connections that there are stay open and nothing passes.
pub fn relay(to: SocketAddr) -> (SocketAddr, Arc<AtomicBool>, Arc<AtomicU64>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let (dark, count) = (Arc::<AtomicBool>::default(), Arc::<AtomicU64>::default());
    let (darkened, counted) = (dark.clone(), count.clone());
    thread::spawn(move || {
        for ours in listener.incoming().map_while(Result::ok) {
            counted.fetch_add(1, Ordering::SeqCst);
            // Who comes after it went dark gets through.
            darkened.store(false, Ordering::SeqCst);
            let theirs = TcpStream::connect(to).unwrap();
            let mine = Arc::<AtomicBool>::default();
            pass(&ours, &theirs, darkened.clone(), mine.clone());
            pass(&theirs, &ours, darkened.clone(), mine);
        }
    });
    (address, dark, count)
}

fn pass(from: &TcpStream, to: &TcpStream, dark: Arc<AtomicBool>, mine: Arc<AtomicBool>) {
    let (mut from, mut to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
    thread::spawn(move || {
        let mut buffer = [0; 4096];
        while let Ok(read @ 1..) = from.read(&mut buffer) {
            if dark.load(Ordering::SeqCst) {
                mine.store(true, Ordering::SeqCst);
            }
            if !mine.load(Ordering::SeqCst) && to.write_all(&buffer[..read]).is_err() {
                break;
            }
        }
        if !mine.load(Ordering::SeqCst) {
            let _ = to.shutdown(Shutdown::Both);
        }
    });
}

#[test]
fn a_connection_that_leads_nowhere_is_given_up_and_no_other_is_made_unasked() {
    let site = Site::new();
    let (_witness, address) = site.witness(0);
    let (between, dark, connections) = relay(address);
    let a = site.server(between, NodeId::A);
    let won = a.take(a.look());
    let before = connections.load(Ordering::SeqCst);
    dark.store(true, Ordering::SeqCst);
    assert!(a.fail().contains("in time"));
    assert_eq!(connections.load(Ordering::SeqCst), before);
    assert_eq!(a.look().record, won.record);
    assert!(connections.load(Ordering::SeqCst) > before);
}

#[test]
fn who_hangs_up_is_dialled_once_for_each_question() {
    let site = Site::new();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let a = site.server(listener.local_addr().unwrap(), NodeId::A);
    for _ in 0..3 {
        a.once(None);
        drop(listener.accept().unwrap());
        wait_for("trouble", || a.client.trouble().is_some());
        a.client.shared.slot.lock().trouble = None;
    }
    listener.set_nonblocking(true).unwrap();
    assert!(listener.accept().is_err());
}

#[test]
fn another_secret_is_told_in_words_on_both_sides() {
    let site = Site::new();
    let (_witness, address) = site.witness(0);
    let other = Site::new();
    let stranger = other.server(address, NodeId::A);
    stranger.fail_with("the other side has another secret");
}

#[test]
fn the_thread_ends_with_its_client() {
    let site = Site::new();
    let a = site.server(([127, 0, 0, 1], 1).into(), NodeId::A);
    a.fail();
    let shared = Arc::downgrade(&a.client.shared);
    drop(a);
    wait_for("the thread to end", || shared.upgrade().is_none());
}

#[test]
fn an_answer_to_another_question_is_none() {
    let answer = WitnessAnswer {
        number: 7,
        witness: WitnessId(1),
        revision: Revision(0),
        record: None,
    };
    let mut frame = Vec::new();
    answer.encode(&mut frame).unwrap();
    assert_eq!(dialled::read(&mut &frame[..]).unwrap(), answer);
    frame[..4].copy_from_slice(&1000u32.to_le_bytes());
    let long = dialled::read(&mut &frame[..]).unwrap_err();
    assert!(long.to_string().contains("1000 bytes"));
}
