/** What a table maps, as a list of disjoint ranges of pages: the slow and obvious model of map and unmap. */
export interface Mapped {
  iova: number;
  output: number;
  pages: number;
  permission: number;
}

export class MappedModel {
  ranges: Mapped[] = [];

  /** Pages from `iova` on that are free, `pages` at most. */
  free(iova: number, pages: number): number {
    const taken = this.ranges.filter((range) => range.iova < iova + pages && range.iova + range.pages > iova);
    return Math.min(pages, ...taken.map((range) => Math.max(0, range.iova - iova)));
  }

  add(mapped: Mapped): void {
    if (mapped.pages > 0) this.ranges.push(mapped);
  }

  /** Takes [iova, iova + pages) away; returns the pages that were mapped. */
  remove(iova: number, pages: number): number {
    const end = iova + pages;
    let removed = 0;
    this.ranges = this.ranges.flatMap((range) => {
      const rangeEnd = range.iova + range.pages;
      const from = Math.max(range.iova, iova);
      const to = Math.min(rangeEnd, end);
      if (from >= to) return [range];
      removed += to - from;
      const head = { ...range, pages: from - range.iova };
      const tail = { ...range, iova: to, output: range.output + (to - range.iova), pages: rangeEnd - to };
      return [head, tail].filter((part) => part.pages > 0);
    });
    return removed;
  }

  /** The ranges within [first, last], ascending, neighbours merged. */
  runs(first: number, last: number): Mapped[] {
    const inside = new MappedModel();
    inside.ranges = this.ranges.map((range) => ({ ...range })).sort((a, b) => a.iova - b.iova);
    inside.remove(0, first);
    inside.remove(last + 1, 2 ** 52 - last - 1);
    return merge(inside.ranges);
  }

  at(pfn: number): Mapped | undefined {
    return this.ranges.find((range) => pfn >= range.iova && pfn < range.iova + range.pages);
  }
}

function merge(ranges: Mapped[]): Mapped[] {
  const merged: Mapped[] = [];
  for (const range of ranges) {
    const before = merged.at(-1);
    const adjacent = before && before.iova + before.pages === range.iova && before.output + before.pages === range.output;
    if (before && adjacent && before.permission === range.permission) before.pages += range.pages;
    else merged.push({ ...range });
  }
  return merged;
}
