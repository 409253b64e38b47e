"""CPU per request (per event, for streams) of every peer, as a multiple of nginx's: run's results on standard input."""

import json
import sys

import matplotlib

matplotlib.use("svg")
matplotlib.rcParams.update({"svg.hashsalt": "sidestep", "svg.fonttype": "none", "font.family": "sans-serif"})
from matplotlib import pyplot  # noqa: E402

NAMES = {
    "small": "small JSON", "two": "small JSON, two workers", "throttled": "a third throttled",
    "sse": "stream, per event", "tls": "TLS to the backend", "prompts": "200 KB prompts",
}
COLOURS = {"sidestep": "#0f766e", "nginx": "#9ca3af", "haproxy": "#c2884a", "envoy": "#7c6f9f"}


def main():
    results = json.load(sys.stdin)
    rows = [row for row in NAMES if row in results]
    peers = [peer for peer in COLOURS if any(peer in results[row] for row in rows)]
    figure, axes = pyplot.subplots(figsize=(8, 0.4 + 0.22 * len(rows) * (len(peers) + 1)))
    for index, row in enumerate(rows):
        for place, peer in enumerate(peers):
            if peer not in results[row]:
                continue
            ratio = 1.0 if peer == "nginx" else results[row][peer]["ratio_to_nginx"]["cpu_us"]
            y = index * (len(peers) + 1) + place
            axes.barh(y, ratio, color=COLOURS[peer], label=peer if index == 0 else None)
            axes.text(ratio * 1.03, y, f"{ratio:.2f}", va="center", fontsize=8)
    axes.set_xscale("log")
    axes.set_xlim(0.3, 12)
    axes.set_xticks([0.5, 1, 2, 5, 10], ["0.5", "1", "2", "5", "10"])
    axes.minorticks_off()
    axes.set_yticks([i * (len(peers) + 1) + (len(peers) - 1) / 2 for i in range(len(rows))], [NAMES[row] for row in rows])
    axes.invert_yaxis()
    axes.axvline(1, color="#9ca3af", linewidth=0.8)
    axes.set_xlabel("CPU per request, times nginx (less is better)")
    for side in ["top", "right", "left"]:
        axes.spines[side].set_visible(False)
    figure.legend(loc="upper center", ncols=len(peers), frameon=False)
    figure.savefig(sys.argv[1], bbox_inches="tight", metadata={"Date": None}, facecolor="white")


main()
