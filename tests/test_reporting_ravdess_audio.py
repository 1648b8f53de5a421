"""The tables of the audio branch alone: which run fills which row, and actors that one replicate alone has tested."""

from pathlib import Path

from golden.fakes import fake_facts, fake_name, fake_result, fake_runs, write_run
from multimodal_loss.reporting.analysis.fill import FilledTable, fill
from multimodal_loss.reporting.layouts import all_layouts

LAYOUTS = all_layouts()


def filled(name: str, folder: Path) -> FilledTable:
    return fill(LAYOUTS[name], fake_runs(folder))


def test_rows_are_of_their_own_runs_and_the_quoted_number_is_a_reference(tmp_path: Path) -> None:
    layout = LAYOUTS["table_2_audio"]
    runs = dict.fromkeys(cell.run for cell in layout.cells)
    assert len(runs) == len(layout.rows) == 4
    for number, run in enumerate(runs):
        result = fake_result([0.1 * number + 0.01 * fold for fold in range(5)], config=facts())
        write_run(tmp_path / fake_name(run), result)
    table = filled("table_2_audio", tmp_path)
    cells = [table.cells[row.key, "ACC"] for row in layout.rows]
    assert [round(cell.mean or 0.0, 6) for cell in cells] == [2.0, 12.0, 22.0, 32.0]
    assert [cell.paper.mean if cell.paper else None for cell in cells] == [58.08, 58.08, None, None]
    assert all(cell.difference is None and cell.distance is None for cell in cells)


def test_an_actor_is_complete_with_the_one_fold_that_tested_him(tmp_path: Path) -> None:
    layout = LAYOUTS["table_2_audio_actors"]
    result = fake_result([0.5] * 5, config=facts())
    result["replicates"][3]["metrics"]["test_actor_08"] = {"fused": {"ACC": 0.75}}
    (run,) = {cell.run for cell in layout.cells if cell.column == "merge"}
    write_run(tmp_path / fake_name(run), result)
    table = filled("table_2_audio_actors", tmp_path)
    found = table.cells["actor_08", "merge"]
    assert (found.state, found.values, found.expected) == ("complete", {3: 75.0}, (3,))
    assert table.cells["actor_09", "merge"].state == "missing" and table.complete == 1


def facts() -> dict[str, object]:
    return {"facts": fake_facts("ravdess", "unimodal_1", "intermediate_attention")}
