import { EXECUTE, PRIVILEGED, READ, WRITE } from '../../memory/access.ts';
import { joinHiLo } from '../../memory/address.ts';
import { type AtsMessage, Kind, Registers, type RequestKind, RiscvIommu, type RiscvIommuConfig } from '../../target/riscv/index.ts';
import { NO_PASID } from '../../target/target.ts';
import type { RecordedLine } from '../recording.ts';
import { excuseAt } from './excuses.ts';
import {
  completionText,
  fenceText,
  memoryText,
  messageOf,
  messageText,
  mrifText,
  NOTHING,
  pageWithin,
  recordedOutcome,
  responseText,
} from './outcomes.ts';
import { ReplayMemory } from './replay-memory.ts';

export interface Difference {
  readonly line: number;
  readonly expected: string;
  readonly got: string;
  /** Why the specification allows it, with its section; null: it does not. */
  readonly excuse: string | null;
}

export interface TestResult {
  readonly n: number;
  readonly name: string;
  checked: number;
  readonly differences: Difference[];
}

/**
 * What the model's tests change behind its programming interface and the recording does not say: model parameters, by the
 * test and the line within it before which they change.
 */
const PARAMETERS: Readonly<Record<string, Partial<RiscvIommuConfig>>> = {
  '9:0': { rcidBits: 2, mcidBits: 2 },
  '21:375': { deviceIdBits: 6 },
  '21:377': { deviceIdBits: 24 },
  '27:40983': { deviceIdBits: 6 },
  '27:40987': { deviceIdBits: 24 },
  '28:0': { gxlWritable: true },
  '29:0': { rcidBits: 8, mcidBits: 8 },
  '30:0': { sbeFree: true },
};

/** Names of programs that a generator made. Their recordings have the model's caches emptied before each request. */
const RANDOM = /^(random|seed) \d+$/;

/** Offsets of registers ("Register layout"). */
const CAPABILITIES = 0;
const FQT = 52;
const TR_REQ_CTL = 608;
const TR_RESPONSE = 616;

/** capabilities.Svrsw60t59b and Svpbmt. */
const TABLE_FORMATS = 3 << 14;

/** Replays a recording of the specification's reference model on this library's device, line by line. */
export class RiscvReplay {
  readonly tests: TestResult[] = [];
  readonly #memory = new ReplayMemory();
  readonly #registers = new Registers();
  #config: RiscvIommuConfig | null = null;
  #iommu: RiscvIommu | null = null;
  /** Messages and fences of the device since the last input. */
  #done: string[] = [];
  /** Outputs that the recording has for the last input. */
  #expected: { readonly line: number; readonly text: string }[] = [];
  #memoryExpected = new Map<number, { readonly line: number; readonly value: bigint }>();
  #line: RecordedLine | null = null;
  #testLine = 0;
  /** Whether the model kept its caches from one request to the next; null: the recording does not say so, but its tests' names do. */
  #cached: boolean | null = null;
  /** The last write made a debug translation. */
  #debugging = false;

  /** @throws RecordingError for a line that is no part of a recording. */
  feed(line: RecordedLine): void {
    this.#line = line;
    this.#reconfigure(line);
    if (line.op === 'memout') {
      this.#expectMemory(line);
    } else if (line.op === 'msgOut') {
      this.#expected.push({ line: line.number, text: messageText(messageOf(line)) });
    } else if (line.op === 'fenceOut') {
      this.#expected.push({ line: line.number, text: fenceText(line.u32('pr') === 1, line.u32('pw') === 1) });
    } else if (this.#debugging && (line.op === 'poke' || line.op === 'xlate')) {
      if (line.op === 'xlate') this.#compareDebug(line);
    } else {
      // The messages that a completion brings about were recorded before it, as the model answered it last.
      if (line.op !== 'invalidationCompletion') this.finish();
      this.#input(line);
    }
  }

  /** Compares what the last input brought about. */
  finish(): void {
    for (const { line, text } of this.#expected) this.#compare(line, text, this.#done.shift() ?? NOTHING);
    for (const text of this.#done) this.#compare(this.#now, NOTHING, text);
    this.#done = [];
    this.#expected = [];
    this.#compareMemory();
  }

  /** A program that a generator made, not one of the model's own tests. */
  get #isRandom(): boolean {
    return RANDOM.test(this.tests.at(-1)?.name ?? '');
  }

  get #now(): number {
    return this.#line?.number ?? 0;
  }

  #expectMemory(line: RecordedLine): void {
    const bytes = Buffer.from(line.text('hex'), 'hex');
    if (bytes.length === 0 || bytes.length % 8 !== 0) line.fail("'hex' is not doublewords");
    for (let at = 0; at < bytes.length; at += 8)
      this.#memoryExpected.set(Number(line.u64('addr')) + at, { line: line.number, value: bytes.readBigUInt64LE(at) });
  }

  /** The recorded tests go on from the model's memory, so the device's changes are taken back and the model's made. */
  #compareMemory(): void {
    const changes = this.#memory.takeChanges();
    for (const [address, { line, value }] of this.#memoryExpected) {
      const got = changes.get(address);
      this.#compare(line, memoryText(address, value), got === undefined ? NOTHING : memoryText(address, got));
      changes.delete(address);
      const bytes = Buffer.alloc(8);
      bytes.writeBigUInt64LE(value);
      this.#memory.set(address, bytes);
    }
    for (const [address, value] of changes) this.#compare(this.#now, NOTHING, memoryText(address, value));
    this.#memoryExpected.clear();
  }

  #compare(line: number, expected: string, got: string): void {
    const test = this.tests.at(-1);
    if (test === undefined) {
      if (expected !== got) this.#line?.fail(`${got} instead of ${expected} before the first test`);
      return;
    }
    test.checked++;
    if (expected === got) return;
    const excuse = excuseAt(line);
    test.differences.push({ line, expected, got, excuse: excuse?.reason ?? null });
    if (line === excuse?.first) this.#registers.set(FQT, this.#registers.get(FQT) + (excuse.faults ?? 0));
  }

  get #device(): RiscvIommu {
    return this.#iommu ?? this.#line!.fail('comes before any reset');
  }

  /** What each input line does. */
  readonly #inputs: Readonly<Record<string, (line: RecordedLine) => void>> = {
    reset: (line) => this.#reset(line),
    test: (line) => this.#startTest(line),
    mem: (line) => this.#memory.set(Number(line.u64('addr')), Buffer.from(line.text('hex'), 'hex')),
    memfault: (line) => this.#memory.fail(line.u64('accessFault'), line.u64('dataCorruption')),
    poke: (line) => this.#poke(line.u32('off'), line.u32('val') | 0),
    regw: (line) => this.#write(line),
    regr: (line) => this.#compare(line.number, hex(line.u64('val')), hex(this.#device.read(line.u32('off'), line.u32('size')))),
    processCommands: () => this.#device.processCommands(1),
    xlate: (line) => {
      if (!(this.#cached ?? !this.#isRandom)) this.#emptyCaches();
      this.#compare(line.number, recordedOutcome(line), line.u32('at') === Kind.ats ? this.#complete(line) : this.#translate(line));
    },
    pageRequest: (line) => this.#device.pageRequest(messageOf(line)),
    // The model answers 1 for a completion that nobody waits for.
    invalidationCompletion: (line) =>
      this.#compare(line.number, `${line.u32('ret')}`, this.#device.invalidationCompletion(messageOf(line)) ? '0' : '1'),
    atsTimeout: (line) => this.#device.invalidationTimeout(line.u32('itagVector')),
  };

  #input(line: RecordedLine): void {
    const input = this.#inputs[line.op];
    if (input === undefined) line.fail('is no operation of a reference-model recording');
    input(line);
  }

  #write(line: RecordedLine): void {
    const offset = line.u32('off');
    const value = line.u64('val');
    this.#debugging = (offset & ~7) === TR_REQ_CTL && (value & 1n) === 1n;
    this.#device.write(offset, line.u32('size'), value);
  }

  /** Table formats are read from capabilities when a context is: where they change, the device reads its contexts anew. */
  #poke(offset: number, value: number): void {
    const changed = this.#registers.get(offset) ^ value;
    this.#registers.set(offset, value);
    if (offset === CAPABILITIES && (changed & TABLE_FORMATS) !== 0) this.#emptyCaches();
  }

  #emptyCaches(): void {
    this.#device.load(this.#device.save());
  }

  #reset(line: RecordedLine): void {
    this.#config = {
      capabilities: line.u64('capabilities'),
      fctl: line.u32('fctl'),
      resetMode: line.u32('resetIommuMode') === 0 ? 0 : 1,
      maxMode: line.u32('maxIommuMode'),
      counters: line.u32('numHpm'),
      counterBits: line.u32('hpmctrBits'),
      eventLimit: line.u32('eventIdLimit'),
      vectorBits: line.u32('numVecBits'),
      gxlWritable: line.u32('gxlWriteable') === 1,
      sbeFree: line.u32('fctlBeWriteable') === 1,
      // The model's directory caches have two entries each, and it has two ITags.
      directoryEntries: 2,
      invalidationTags: 2,
      iotlbEntries: 16,
      deferCommands: true,
    };
    this.#iommu = this.#make(this.#config);
    this.#cached = line.has('nocache') ? line.u32('nocache') === 0 : null;
  }

  #make(config: RiscvIommuConfig): RiscvIommu {
    const surroundings = {
      memory: this.#memory,
      sendMessage: (message: AtsMessage) => void this.#done.push(messageText(message)),
      orderRequests: (reads: boolean, writes: boolean) => void this.#done.push(fenceText(reads, writes)),
    };
    return new RiscvIommu(config, surroundings, this.#registers);
  }

  /** A line that needs other parameters gets a device of the same state that has them. */
  #reconfigure(line: RecordedLine): void {
    if (this.#isRandom) return;
    const parameters = PARAMETERS[`${this.tests.at(-1)?.n}:${line.number - this.#testLine}`];
    if (parameters === undefined || this.#config === null) return;
    this.finish();
    const state = this.#device.save();
    this.#config = { ...this.#config, ...parameters };
    this.#iommu = this.#make(this.#config);
    this.#iommu.load(state);
  }

  #startTest(line: RecordedLine): void {
    this.tests.push({ n: line.u32('n'), name: line.text('name'), checked: 0, differences: [] });
    this.#testLine = line.number;
    this.#reconfigure(line);
  }

  #translate(line: RecordedLine): string {
    const kind = line.u32('at') as RequestKind;
    const pasid = line.u32('pv') === 1 ? line.u32('pid') : NO_PASID;
    const write = line.u32('write') === 1;
    // A translated read with execute intent is a read too; an untranslated one asks for execution alone.
    const fetch = line.u32('exec') === 1 && (kind === Kind.untranslated || pasid !== NO_PASID);
    const wanted = write ? WRITE : fetch ? EXECUTE | (kind === Kind.translated ? READ : 0) : READ;
    const access = wanted | (line.u32('priv') === 1 ? PRIVILEGED : 0);
    const iommu = this.#device;
    if (iommu.request(kind, line.u32('did'), pasid, line.u64('iova'), access) < 0) return 'status 1';
    const { answer, translated, msi } = iommu;
    return responseText({
      page: joinHiLo(translated[1], translated[0]) >> 12n,
      pbmt: answer.pbmt,
      interruptFile: answer.interruptFile,
      mrif: answer.mrif ? mrifText(joinHiLo(msi.mrifHi, msi.mrifLo), msi.notice) : null,
    });
  }

  #complete(line: RecordedLine): string {
    const { status, page, large, cxlIo, global, privileged, untranslatedOnly, read, write, execute } = this.#device.translationRequest({
      device: line.u32('did'),
      pasid: line.u32('pv') === 1 ? line.u32('pid') : null,
      iova: line.u64('iova'),
      noWrite: line.u32('noWrite') === 1 && line.u32('write') === 0,
      execute: line.u32('exec') === 1,
      privileged: line.u32('priv') === 1,
      cxl: line.u32('cxl') === 1,
    });
    if (status !== 'success') return `status ${status === 'abort' ? 4 : 1}`;
    return completionText({ page, large, flags: [cxlIo, global, privileged, untranslatedOnly, read, write, execute] });
  }

  /**
   * A write of tr_req_ctl with Go makes the model call its own translation, which the recorder saw as a request of its own,
   * with the registers half changed: what follows is part of the write.
   */
  #compareDebug(line: RecordedLine): void {
    this.#debugging = false;
    const response = this.#device.read(TR_RESPONSE, 8);
    const large = ((response >> 9n) & 1n) === 1n;
    const page = pageWithin((response >> 10n) & (2n ** 44n - 1n), large, line.u64('iova') >> 12n);
    const pbmt = Number((response >> 7n) & 3n);
    const interruptFile = line.has('rsp') && line.object('rsp').u32('isMsi') === 1;
    const got = (response & 1n) === 1n ? 'status 1' : responseText({ page, pbmt, interruptFile, mrif: null });
    this.#compare(line.number, recordedOutcome(line), got);
  }
}

function hex(value: bigint): string {
  return `0x${value.toString(16)}`;
}
