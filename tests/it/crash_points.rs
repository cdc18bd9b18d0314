//! The worker is killed at each boundary of an attempt, for each kind of job. What became of it is written to
//! `target/crash-matrix.md`.

use roost_tests::chaos::crash_points;

#[tokio::test(flavor = "multi_thread")]
async fn whatever_a_worker_dies_of_its_job_comes_to_the_same_end() {
    let matrix = crash_points::matrix().await.unwrap();
    let test = std::env::current_exe().unwrap();
    // target/debug/deps/it
    let target = test.ancestors().nth(3).unwrap();
    std::fs::write(target.join("crash-matrix.md"), matrix.table()).unwrap();
    println!("{}\n{}", matrix.table(), matrix.verdict.figures());
    assert!(matrix.verdict.is_clean(), "{:#?}", matrix.verdict.violations);
    assert_eq!(matrix.wrong(), Vec::<String>::new());
}
