"""Tables of what production asks for: traffic of many processes, checkpoints, faults survived."""

from __future__ import annotations

from benchmarks.views.cells import load, middle, rounded, table


def ddp_buffers(name: str) -> str:
    """Bytes that DDP sends before a step, and the step with etfhead's marks over the step without."""
    rows = []
    for row in load(name):
        sent = {side: _bytes(value) for side, value in row["bytes_sent_a_step"].items()}
        took = [f"{row['milliseconds'][side]['median']:,.0f} ms" for side in sent]
        size = f"d={row['in_features']:,}, K={row['num_classes']:,}"
        rows.append([size, *sent.values(), *took, middle(row["ratio_marked"], 2)])
    header = ["head", "sent by DDP as it is", "with marks", "step of DDP as it is", "with marks"]
    return table([*header, "step over step, median [quartiles]"], rows)


def checkpoint_overhead(name: str) -> str:
    """Checkpoints as a share of an epoch, and the way back, of every arm."""
    rows = []
    for row in load(name):
        share = {key: 100.0 * value for key, value in row["share"].items()}
        back = row["resume"]
        rows.append(
            [
                f"`{row['arm']}`",
                f"{row['epoch_seconds']['median']:.1f} s",
                _bytes(row["state_bytes"]),
                f"{rounded(1e3 * row['checkpoint_seconds']['median'])} ms",
                middle(share, 2),
                f"{100.0 * row['largest_share']:.2f}",
                f"{100.0 * row['share_with_seeding']['median']:.2f}",
                f"{rounded(1e3 * (back['read_and_verify'] + back['restore']))} ms",
            ]
        )
    header = ["arm", "epoch", "checkpoint", "written in", "share of the epoch (%), median [quartiles]"]
    header += ["largest share", "share with the seeds of all steps", "read, verified, restored in"]
    return table(header, rows)


def faults(name: str) -> str:
    """What was tried, and how much of it was survived."""
    rows = []
    for row in load(name):
        detail = row["detail"].replace("|", "\\|")
        rows.append([row["fault"], f"{row['survived']} of {row['tried']}", f"{row['seconds']:.0f} s", detail])
    return table(["fault", "survived", "time", ""], rows)


def _bytes(count: int) -> str:
    return f"{rounded(count / 1e6)} MB" if count >= 1_000_000 else f"{rounded(count / 1e3)} kB"


WRITERS = {
    "ddp_buffers_cpu": ddp_buffers,
    "ddp_buffers_cuda": ddp_buffers,
    "checkpoint_overhead_cpu": checkpoint_overhead,
    "checkpoint_overhead_cuda": checkpoint_overhead,
    "faults": faults,
}
