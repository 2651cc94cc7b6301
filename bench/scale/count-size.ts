import { filledGuest } from './size-guest.ts';
import type { WorkCounter } from './work.ts';

/** Blocks of what a device needs that comes to a full table (size-guest.ts). */
export function count(counter: WorkCounter, bytes: string, pageLg2: string, scattered: string): number {
  const guest = filledGuest(Number(bytes), Number(pageLg2), scattered === 'true');
  let blocks = 0;
  for (const slice of guest.slices()) blocks += counter.of(slice);
  guest.close();
  return blocks;
}
