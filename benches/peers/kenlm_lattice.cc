// Times KenLM's ProbingModel over lattices: k x k extensions from slot to slot.
//
// Needs an installed (or built) KenLM: INC is the folder that holds lm/ and util/, LIB the one
// that holds libkenlm.a and libkenlm_util.a; KENLM_MAX_ORDER must be the one they were built with.
//
//   g++ -O3 -march=native -DNDEBUG -DKENLM_MAX_ORDER=6 -I INC kenlm_lattice.cc -o kenlm_lattice
//       LIB/libkenlm.a LIB/libkenlm_util.a -lz -lbz2 -llzma -lrt -lpthread      (one line)
//
//   ./kenlm_lattice MODEL LATTICES     (MODEL: a probing binary or an ARPA file)
//
// LATTICES: a line `slots k`; then for each lattice a line with the context's words (`<s>` first
// if it begins the sentence) and `slots` lines of k words. The first slot's candidates extend the
// context's state; from then on every candidate of a slot extends the k states of the slot before,
// and its own state is the one made from the predecessor with the best sum (ties: the first).
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <fstream>
#include <iostream>
#include <sstream>
#include <string>
#include <vector>

#include "lm/model.hh"

typedef lm::ngram::ProbingModel Model;
typedef lm::ngram::State State;

struct Lattice {
  State start;
  std::vector<lm::WordIndex> words;  // slots x k
};

int main(int argc, char **argv) {
  if (argc != 3) {
    std::cerr << "usage: kenlm_lattice MODEL LATTICES\n";
    return 2;
  }
  lm::ngram::Config config;
  config.messages = NULL;
  const Model model(argv[1], config);

  std::ifstream in(argv[2]);
  std::string line, word;
  std::size_t slots = 0, k = 0;
  std::getline(in, line);
  std::istringstream(line) >> slots >> k;
  if (!slots || !k) {
    std::cerr << argv[2] << ": no `slots k` line\n";
    return 1;
  }

  // Words to indices and contexts to states, outside of the timing.
  std::vector<Lattice> lattices;
  while (std::getline(in, line)) {
    Lattice l;
    State next;
    l.start = model.NullContextState();
    std::istringstream context(line);
    for (bool first = true; context >> word; first = false) {
      if (first && word == "<s>") {
        l.start = model.BeginSentenceState();
      } else {
        model.FullScore(l.start, model.GetVocabulary().Index(word), next);
        l.start = next;
      }
    }
    for (std::size_t s = 0; s < slots; ++s) {
      std::getline(in, line);
      std::istringstream row(line);
      for (std::size_t n = 0; n < k; ++n) {
        if (!(row >> word)) {
          std::cerr << argv[2] << ": lattice " << lattices.size() << " is cut short\n";
          return 1;
        }
        l.words.push_back(model.GetVocabulary().Index(word));
      }
    }
    lattices.push_back(l);
  }

  std::vector<State> states(k), made(k);
  std::vector<float> best(k), sum(k);
  double checksum = 0, fastest = 1e300;
  unsigned long long extensions = 0;
  for (int pass = -1; pass < 20; ++pass) {  // pass -1 warms up
    checksum = 0;
    extensions = 0;
    const auto begin = std::chrono::steady_clock::now();
    for (const Lattice &l : lattices) {
      const lm::WordIndex *words = l.words.data();
      for (std::size_t j = 0; j < k; ++j) {
        best[j] = model.FullScore(l.start, words[j], states[j]).prob;
        checksum += best[j];
      }
      extensions += k;
      for (std::size_t s = 1; s < slots; ++s) {
        words += k;
        for (std::size_t j = 0; j < k; ++j) {
          State out;
          for (std::size_t i = 0; i < k; ++i) {
            const float p = model.FullScore(states[i], words[j], out).prob;
            checksum += p;
            if (i == 0 || best[i] + p > sum[j]) {
              sum[j] = best[i] + p;
              made[j] = out;
            }
          }
        }
        extensions += k * k;
        states.swap(made);
        best.swap(sum);
      }
    }
    const std::chrono::duration<double, std::nano> took = std::chrono::steady_clock::now() - begin;
    if (pass >= 0) fastest = std::min(fastest, took.count());
  }
  std::printf("%zu lattices, %zu slots, %zu candidates, %llu extensions a pass\n", lattices.size(), slots, k, extensions);
  std::printf("%.2f ns an extension (best of 20 passes)\n", fastest / extensions);
  std::printf("sum of log10 scores %.6f\n", checksum);
}
