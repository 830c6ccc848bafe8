// What cron-parser answers: a line of JSON for each line {"cron", "tz", "from", "end", "count"}, instants in seconds.
//
// The first line is when the clocks of each zone change: {"name": [[instant, offset from then on], …]}. So it goes by the same
// zone rules as everybody else here, and not by those that this version of Node was built with.
'use strict';

const readline = require('readline');
const { parseExpression } = require('cron-parser');
const { Zone } = require('luxon');

class Table extends Zone {
  constructor(name, changes) {
    super();
    this.zone = name;
    this.changes = changes;
  }

  get type() {
    return 'table';
  }

  get name() {
    return this.zone;
  }

  get isUniversal() {
    return false;
  }

  get isValid() {
    return true;
  }

  equals(other) {
    return this === other;
  }

  // Minutes at an instant in milliseconds.
  offset(at) {
    let [first, last] = [0, this.changes.length];
    while (last - first > 1) {
      const middle = (first + last) >> 1;
      if (this.changes[middle][0] * 1000 <= at) first = middle;
      else last = middle;
    }
    return this.changes[first][1] / 60;
  }
}

function answer(question, zones) {
  const next = [];
  try {
    const fires = parseExpression(question.cron, {
      currentDate: new Date(question.from * 1000),
      tz: zones[question.tz],
    });
    while (next.length < question.count) {
      const at = fires.next().getTime() / 1000;
      if (question.end !== null && at > question.end) break;
      next.push(at);
    }
  } catch (error) {
    return { next, error: error.message };
  }
  return { next };
}

let zones;
readline.createInterface({ input: process.stdin }).on('line', (line) => {
  const question = JSON.parse(line);
  if (zones) {
    console.log(JSON.stringify(answer(question, zones)));
  } else {
    zones = {};
    for (const [name, changes] of Object.entries(question)) zones[name] = new Table(name, changes);
  }
});
