"""The short form of `benchmarks.soak.kills`: what was finished is kept, and the end is that of an unkilled run."""

from benchmarks.soak import kills

SHORT = (
    "--preset smoke --rounds 1 --random-episodes 2 --random-steps 40 --scripted-episodes 2 --max-steps 60 --sought 2"
)
SHORT += " --candidates 1 --own-episodes 2 --validation-tracks 1 --real-generations 0 --vae.epochs 2 --rnn.epochs 3"


def test_a_killed_run_loses_nothing_and_comes_to_the_same_end():
    report = kills.run(kills=1, inside=2, seed=1, arguments=SHORT.split())
    assert report["kills"] + report["inside_writes"] > 1
    assert report["files_compared"] > 20
    assert (report["lost"], report["different"], report["left"]) == ([], [], [])
