"""What a study costs on several ranks: counted on one, foretold by figures of a machine, and measured."""
