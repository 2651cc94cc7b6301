import { NO_PASID } from '../target/target.ts';

/*
 * Lines that recordings of all kinds share (test/recordings/README.md): JSON objects, numbers that can pass 2^53 as hexadecimal strings.
 */

/** Where a recording goes: a file's stream, one that compresses, or anything else that takes text. */
export interface RecordingStream {
  write(text: string): unknown;
}

export function hex(value: number | bigint): string {
  return `0x${value.toString(16)}`;
}

/** The process that a line is about; nothing: none. */
export function pasidField(pasid: number): { readonly pasid?: number } {
  return pasid === NO_PASID ? {} : { pasid };
}

/** Guest RAM, as the first line has it. */
export function ramLine(regions: readonly { readonly gpa: bigint; readonly bytes: number }[]): object[] {
  return regions.map(({ gpa, bytes }) => ({ gpa: hex(gpa), bytes: hex(BigInt(bytes)) }));
}

/** One access: where it went, or the fault code with which it ended. */
export function dmaLine(endpoint: number, pasid: number, iova: bigint, access: number, answer: bigint | number): object {
  const end = typeof answer === 'bigint' ? { addr: hex(answer) } : { fault: answer };
  return { op: 'dma', endpoint, ...pasidField(pasid), iova: hex(iova), access, ...end };
}

export function writeLine(stream: RecordingStream, line: object): void {
  stream.write(`${JSON.stringify(line)}\n`);
}
