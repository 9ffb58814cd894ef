// Statistics and tables for both benchmarks.
export const median = (numbers) => quantile(numbers, 0.5);

export function quantile(numbers, q) {
  return [...numbers].sort((a, b) => a - b)[Math.min(numbers.length - 1, Math.floor(numbers.length * q))];
}

export function table(head, rows) {
  const line = (cells) => `| ${cells.join(" | ")} |`;
  console.log([line(head), line(head.map(() => "---")), ...rows.map(line)].join("\n") + "\n");
}
