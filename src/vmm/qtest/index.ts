export { MACHINES, type MachineName, type TestMachine, type TestMachineOptions, testMachine } from './machine.ts';
export { QmpProtocol } from './qmp-protocol.ts';
export { QtestProtocol } from './qtest-protocol.ts';
export { type QtestSockets, serveQtest } from './server.ts';
export type { UnitName } from './units.ts';
