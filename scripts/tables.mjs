// Reads the tables of a document, each between `<!-- name -->` and `<!-- end -->`.
import { readFileSync } from "node:fs";

export class Document {
  constructor(file) {
    this.file = file;
    this.text = readFileSync(file, "utf8");
  }

  section(name) {
    const found = this.text.match(new RegExp(`<!-- ${name} -->\n([^]*?)<!-- end -->`));
    if (!found) throw new Error(`${this.file} has no section "${name}"`);
    return found[1];
  }

  // The cells of a table, without the row of dashes.
  table(name) {
    const rows = this.section(name).match(/^\|.*\|$/gm);
    const cells = rows.map((row) =>
      row
        .slice(1, -1)
        .split("|")
        .map((cell) => cell.trim()),
    );
    return { header: cells[0], rows: cells.slice(2) };
  }
}

// A number, or the upper bound that `≤` marks.
export function number(cell) {
  const value = Number(cell.replace(/^≤ /, "").replaceAll(",", ""));
  if (!/\d/.test(cell) || Number.isNaN(value)) throw new Error(`not a number: "${cell}"`);
  return value;
}

export const isBound = (cell) => cell.startsWith("≤ ");
